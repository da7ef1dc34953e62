"""The notebooks and modules keep the rules of CONTRIBUTING.md, and each check complains when one is broken."""
import pytest
from checkout import insist
from nbformat.v4 import new_code_cell, new_output
from outputs import close, compare_cells, same_text
from run_notebooks import NOTEBOOKS, ROOT
from structure import (PACKAGE, check_cells, check_imports, check_modules, check_stored_outputs, exported_module,
                       imported_modules, python_of, read, unreadable_formulas)

ALL = {path.relative_to(NOTEBOOKS).with_suffix('').as_posix(): read(path)
       for path in sorted(NOTEBOOKS.rglob('*.ipynb')) if not any(part.startswith('.') for part in path.relative_to(NOTEBOOKS).parts)}
EXPORTS = {name: exported_module(notebook) for name, notebook in ALL.items()}
CHAPTERS = [module for module in EXPORTS.values() if module]  # in the order of the course
MODULES = sorted(path.stem for path in (ROOT / PACKAGE).glob('*.py') if not path.stem.startswith('_'))
each_notebook = pytest.mark.parametrize('name', ALL)


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
def test_notebook_imports_backwards(name):
    own = EXPORTS[name]
    allowed = CHAPTERS[:CHAPTERS.index(own) + 1] if own else CHAPTERS
    none(check_imports(name, python_of(ALL[name]), allowed, CHAPTERS))


@pytest.mark.parametrize('module', MODULES)
def test_module_imports_backwards(module):
    allowed = CHAPTERS[:CHAPTERS.index(module)] if module in CHAPTERS else []
    source = (ROOT / PACKAGE / f'{module}.py').read_text(encoding='utf-8')
    none(check_imports(f'{PACKAGE}/{module}.py', source, allowed, CHAPTERS))


# ---- Wrong on purpose: each check must complain.

def code(source, *outputs, id='0'):
    return new_code_cell(source, outputs=list(outputs), id=id)


def only(complaints, words):
    assert len(complaints) == 1 and words in complaints[0], complaints


@pytest.mark.parametrize('cells, words', [
    ([{'cell_type': 'code', 'source': 'x = 1'}], 'has no id'),
    ([code('x = 1'), code('y = 1')], 'id of an earlier cell'),
    ([code('# why\n\n' + 'x = 1\n' * 26)], '26 lines'),
    ([code('if True:\n    from torch import *')], 'imports *'),
    ([{'cell_type': 'markdown', 'id': '0', 'source': 'Here $x^$ stands.'}], 'x^'),
])
def test_cells_wrong(cells, words):
    only(check_cells('01_wrong', {'cells': cells}), words)


def test_longest_cell_passes():
    none(check_cells('01_right', {'cells': [code('# why\n\n' + 'x = 1\n' * 25)]}))


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
    ({'01_a': 'a', '02_b': None}, ['a'], '02_b has no #| default_exp'),
    ({'01_a': 'b'}, ['b'], '01_a exports b'),
    ({'a': 'a'}, ['a'], 'a exports a'),
    ({'01_numpy': 'numpy'}, ['numpy'], '01_numpy exports numpy'),
    ({'01_a': 'a', '02_a': 'a'}, ['a'], '01_a and 02_a both export a'),
    ({'01_a': 'a'}, [], 'run nbdev_export'),
    ({'01_a': 'a', 'index': None}, ['a', 'old'], 'old.py has no notebook'),
])
def test_modules_wrong(exports, modules, words):
    only(check_modules(exports, modules), words)


@pytest.mark.parametrize('statement', [
    'import backprop_course.b', 'from backprop_course.b import f', 'from backprop_course import b', 'from .b import f',
    'from . import b as c', 'def f():\n    from backprop_course.b import g', 'import torch, backprop_course.b as b'])
def test_imports_wrong(statement):
    only(check_imports('a', statement, [], ['a', 'b']), 'backprop_course.b')
    none(check_imports('a', statement, ['b'], ['a', 'b']))


def test_imports_of_cells_with_magics():
    cells = [code('%%time\nimport backprop_course.a'), code('%timeit -n1 f()\nimport backprop_course.b'), code('!echo hello')]
    assert imported_modules(python_of({'cells': cells})) == {'a', 'b'}


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
