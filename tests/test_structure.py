"""The notebooks and modules keep the rules of CONTRIBUTING.md, and each check complains when one is broken."""
import pytest
from checkout import insist
from nbformat.v4 import new_code_cell, new_output
from outputs import close, compare_cells, same_text
from run_notebooks import NOTEBOOKS, ROOT
from structure import (PACKAGE, check_arrows, check_cells, check_circles, check_index, check_modules, check_private, check_stored_outputs,
                       check_test_files, exported_module, imported_modules, python_of, read, shelf, unreadable_formulas)

ALL = {path.relative_to(NOTEBOOKS).with_suffix('').as_posix(): read(path)
       for path in sorted(NOTEBOOKS.rglob('*.ipynb')) if not any(part.startswith('.') for part in path.relative_to(NOTEBOOKS).parts)}
EXPORTS = {name: exported_module(notebook) for name, notebook in ALL.items()}
HOME = {module: name for name, module in EXPORTS.items() if module}
MODULES = {'.'.join(path.relative_to(ROOT / PACKAGE).with_suffix('').parts): path.read_text(encoding='utf-8')
           for path in sorted((ROOT / PACKAGE).rglob('*.py')) if not path.stem.startswith('_')}
each_notebook = pytest.mark.parametrize('name', ALL)
each_module = pytest.mark.parametrize('module', MODULES)


def none(complaints):
    insist(not complaints, '\n'.join(complaints))


@each_notebook
def test_cells(name):
    none(check_cells(name, ALL[name]))


@each_notebook
def test_stored_outputs(name):
    none(check_stored_outputs(name, ALL[name]))


def test_one_notebook_one_module():
    none(check_modules(EXPORTS, MODULES))


@each_notebook
def test_arrows_of_notebooks(name):
    none(check_arrows(name, imported_modules(python_of(ALL[name]), MODULES), HOME))


@each_module
def test_arrows_of_modules(module):
    none(check_arrows(HOME[module], imported_modules(MODULES[module], MODULES, module), HOME))


def test_no_circles():
    none(check_circles({module: imported_modules(source, MODULES, module) for module, source in MODULES.items()}))


@each_notebook
def test_no_private_names_in_notebooks(name):
    none(check_private(name, python_of(ALL[name])))


@each_module
def test_no_private_names_in_modules(module):
    none(check_private(module, MODULES[module], module))


def test_index():
    none(check_index(ALL['index'], ALL))


def test_each_module_has_tests():
    none(check_test_files(MODULES, [path.name for path in (ROOT / 'tests').glob('*.py')]))


# ---- Wrong on purpose: each check must complain.

def code(source, *outputs, id='0', **metadata):
    return new_code_cell(source, outputs=list(outputs), id=id, metadata=metadata)


FOLDED = {'jupyter': {'source_hidden': True}, 'tags': ['hide-input']}


def only(complaints, words):
    assert len(complaints) == 1 and words in complaints[0], complaints


@pytest.mark.parametrize('cells, words', [
    ([{'cell_type': 'code', 'source': 'x = 1'}], 'has no id'),
    ([code('x = 1'), code('y = 1')], 'id of an earlier cell'),
    ([code('# why\n\n' + 'x = 1\n' * 26)], '26 lines'),
    ([code('if True:\n    from torch import *')], 'imports *'),
    ([{'cell_type': 'markdown', 'id': '0', 'source': 'Here $x^$ stands.'}], 'x^'),
    ([code('#| export\nimport torch')], 'imports only, and is not folded'),
    ([code('import torch', tags=['hide-input'])], 'is not folded'),
    ([code('import torch\nx = 1', **FOLDED)], 'is folded, and does more than import'),
])
def test_cells_wrong(cells, words):
    only(check_cells('01_wrong', {'cells': cells}), words)


def test_longest_cell_passes():
    none(check_cells('01_right', {'cells': [code('# why\n\n' + 'x = 1\n' * 25), code('import torch', id='1', **FOLDED)]}))


@pytest.mark.parametrize('markdown, unreadable', [
    ('$x$ and $$\\frac{a}{b}$$ and `$HOME`', 0), ('$\\nosuchcommand x$', 1), ('$x^$', 1), ('5 $ apiece', 1)])
def test_unreadable_formulas(markdown, unreadable):
    assert len(unreadable_formulas(markdown)) == unreadable


@pytest.mark.parametrize('output, words', [
    (new_output('error', ename='ValueError', evalue='no', traceback=[]), 'ValueError'),
    (new_output('stream', name='stderr', text='UserWarning: old'), 'UserWarning: old'),
    (new_output('display_data', data={'image/png': 'iVBO'}), 'alt text'),
    (new_output('display_data', data={'image/png': 'iVBO'}, metadata={'image/png': {'alt': ' '}}), 'alt text'),
])
def test_stored_outputs_wrong(output, words):
    only(check_stored_outputs('01_wrong', {'cells': [code('f()', output)]}), words)


@pytest.mark.parametrize('exports, modules, words', [
    ({'toolbox/a': None}, [], 'toolbox/a has no #| default_exp'),
    ({'01_a': 'b'}, ['b'], '01_a exports b'),
    ({'01b_a': 'b_a'}, ['b_a'], '01b_a exports b_a'),
    ({'toolbox/a': 'a'}, ['a'], 'toolbox/a exports a'),
    ({'a': 'a'}, ['a'], 'a exports a'),
    ({'01_a': 'a', '02_a': 'a'}, ['a'], '01_a and 02_a both export a'),
    ({'01_a': 'a'}, [], 'run nbdev_export'),
    ({'01_a': 'a', 'index': None}, ['a', 'toolbox.old'], 'toolbox/old.py has no notebook'),
])
def test_modules_wrong(exports, modules, words):
    only(check_modules(exports, modules), words)


@pytest.mark.parametrize('statement', [
    'import backprop_course.b', 'from backprop_course.b import f', 'from backprop_course import b', 'from .b import f',
    'from . import b as c', 'def f():\n    from backprop_course.b import g', 'import torch, backprop_course.b as b'])
def test_imports_are_found(statement):
    assert imported_modules(statement, ['a', 'b'], 'a') == {'b'}


def test_imports_of_the_toolbox_are_found():
    modules = ['backward', 'toolbox.checks', 'toolbox.rules']
    assert imported_modules('from .checks import f\nfrom ..backward import g', modules, 'toolbox.rules') == {'toolbox.checks', 'backward'}
    assert imported_modules('from .toolbox.rules import f\nfrom backprop_course.toolbox import checks', modules, 'backward') == {
        'toolbox.rules', 'toolbox.checks'}


def test_imports_of_cells_with_magics():
    cells = [code('%%time\nimport backprop_course.a'), code('%timeit -n1 f()\nimport backprop_course.b'), code('!echo hello')]
    assert imported_modules(python_of({'cells': cells}), ['a', 'b', 'c']) == {'a', 'b'}


PLACES = {'a': '01_a', 'b': '02_b', 'aside': '01a_aside', 'beside': '02a_beside', 'toolbox.t': 'toolbox/t', 'toolbox.u': 'toolbox/u'}


@pytest.mark.parametrize('name, module, words', [
    ('toolbox/t', 'a', 'the toolbox knows no lesson'),
    ('02_b', 'aside', 'nothing on the main line needs a side trip'),
    ('01a_aside', 'beside', 'which comes no earlier'),
    ('01a_aside', 'b', 'which comes no earlier'),
    ('01_a', 'b', 'which comes no earlier'),
    ('toolbox/t', 'aside', 'the toolbox knows no lesson'),
])
def test_arrows_wrong(name, module, words):
    only(check_arrows(name, {module}, PLACES), words)


@pytest.mark.parametrize('name, module', [
    ('toolbox/t', 'toolbox.u'), ('02_b', 'a'), ('02_b', 'toolbox.t'), ('01a_aside', 'a'), ('02a_beside', 'b'), ('02a_beside', 'aside'),
    ('02a_beside', 'toolbox.t'), ('index', 'beside'), ('02_b', 'b')])
def test_arrows_right(name, module):
    none(check_arrows(name, {module}, PLACES))


def test_circles_wrong():
    only(check_circles({'a': {'b'}, 'b': {'a'}}), 'in a circle')
    none(check_circles({'a': {'b'}, 'b': set()}))


def test_private_wrong():
    only(check_private('a', 'from backprop_course.b import _f'), 'imports _f from backprop_course.b')
    only(check_private('b', 'from .a import f, _g', 'b'), 'imports _g')
    none(check_private('a', 'from torch.utils._python_dispatch import _x\nfrom backprop_course import __version__'))


def test_index_wrong():
    index = {'cells': [{'cell_type': 'markdown', 'source': '[01 A](01_a.ipynb)'}]}
    only(check_index(index, ['01_a', 'toolbox/t', 'index']), 'no link to toolbox/t.ipynb')


def test_test_files_wrong():
    only(check_test_files(['a', 'toolbox.b'], ['test_a.py']), 'tests/test_b.py is missing')


# ---- Fresh outputs against the stored ones.

@pytest.mark.parametrize('stored, fresh', [
    ('1.0000', '1.0005'), ('0.0123', '0.0124'), ('-0.0000', '0.0000'), ('3', '3.'), ('1e-08', '1.0004e-08'), ('784', '784')])
def test_close(stored, fresh):
    assert close(stored, fresh)


@pytest.mark.parametrize('stored, fresh', [
    ('1.0', '1.1'), ('64', '65'), ('0.012', '0.014'), ('1e-08', '2e-08'), ('1.5', '-1.5'), ('0.25', '0.26')])
def test_not_close(stored, fresh):
    assert not close(stored, fresh)


def test_same_text():
    assert same_text('tensor([ 0.5000, -1.0000])', 'tensor([0.5001, -1.0000])')
    assert not same_text('tensor([0.5])', 'tensor([0.5, 0.5])')
    assert not same_text('loss 0.5', 'error 0.5')
    assert not same_text('nan', '0.5')


def printed(text):
    return new_output('stream', name='stdout', text=text)


PICTURE = new_output('display_data', data={'image/png': 'iVBO', 'text/plain': '<Figure>'})


@pytest.mark.parametrize('source, stored, fresh, words', [
    ('f()', [printed('0.5\n')], [printed('0.6\n')], 'stored: 0.5'),
    ('f()', [], [printed('0.5')], 'no stored run'),
    ('#| varies\nf()', [], [printed('0.5')], 'no stored run'),
    ('f()', [printed('0.5')], [], 'now gives nothing'),
    ('f()', [PICTURE], [printed('0.5')], 'is stored with image/png'),
    ('f()', [printed('0.5')], [printed('0.5'), PICTURE], 'now gives image/png'),
])
def test_stale_output(source, stored, fresh, words):
    assert words in compare_cells(code(source, *stored), code(source, *fresh))


@pytest.mark.parametrize('source, stored, fresh', [
    ('f()', [printed('1\n2\n')], [printed('1\n'), printed('2\n')]),
    ('#| varies\nf()', [printed('3 ms')], [printed('4 ms')]),
    ('f()', [PICTURE], [PICTURE]),
    ('x = 1', [], []),
])
def test_same_output(source, stored, fresh):
    assert not compare_cells(code(source, *stored), code(source, *fresh))
