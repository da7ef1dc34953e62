"""Every notebook runs, by nbdev_test and in a real kernel; what is stored is what it gives; nothing is left to clean or export."""
import nbformat
import pytest
from checkout import copy_checkout, insist, nbdev, nbdev_test_alone
from nbdev.clean import clean_nb
from outputs import compare_notebooks
from run_notebooks import NOTEBOOKS, find_notebooks, name_of, run_notebook
from structure import PACKAGE

pytestmark = pytest.mark.slow
each_notebook = pytest.mark.parametrize('path', find_notebooks(), ids=name_of)


@each_notebook
def test_nbdev_test(path, tmp_path):
    "A process each: nbdev_test reuses its workers, and settings would leak from one notebook to the next."
    status, said = nbdev_test_alone(path, tmp_path / 'log')
    insist(status == 0 and 'Success.' in said, f'nbdev_test --path nbs/{name_of(path)}.ipynb says:\n{said}')


def stale_outputs(path):
    "Run the notebook at `path` in a kernel: what failed, or how its outputs differ from those it is stored with."
    run = run_notebook(path)
    if run.error:
        return [run.error]
    stored = nbformat.read(path, as_version=4)
    for notebook in (stored, run.notebook):
        clean_nb(notebook)
    return compare_notebooks(name_of(path), stored, run.notebook)


@each_notebook
def test_kernel_gives_what_is_stored(path):
    complaints = stale_outputs(path)
    insist(not complaints, '\n'.join(complaints) +
           f'\nMend the cell, or store what it gives now: python tools/run_notebooks.py nbs/{name_of(path)}.ipynb --store && nbdev_clean'
           '\nA cell whose output differs from run to run has the line #| varies')


def changed_by(command, folder):
    "Which notebooks and modules in `folder` the nbdev command changes."
    def contents():
        files = [*(folder / NOTEBOOKS.name).rglob('*.ipynb'), *(folder / PACKAGE).rglob('*.py')]
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files if file.name != '_modidx.py'}  # git ignores that one

    before = contents()
    done = nbdev(command, folder=folder)
    assert done.returncode == 0, f'{command} says:\n{done.stdout}'
    after = contents()
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


@pytest.mark.parametrize('command', ['nbdev_clean', 'nbdev_export'])
def test_nothing_to_do(command, tmp_path):
    changed = changed_by(command, copy_checkout(tmp_path / 'copy'))
    insist(not changed, f'{command} changes {", ".join(changed)}: run it and commit the result')


# ---- Wrong on purpose: each check must complain.

def test_unclean_and_unexported(tmp_path):
    folder = copy_checkout(tmp_path / 'copy')
    path = folder / 'nbs/toolbox/checks.ipynb'
    notebook = nbformat.read(path, as_version=4)
    exported = next(cell for cell in notebook.cells if cell.source.startswith('#| export'))
    exported.source += '\nspare = 1'
    exported.execution_count = 7
    nbformat.write(notebook, path)
    assert changed_by('nbdev_clean', folder) == ['nbs/toolbox/checks.ipynb']
    assert changed_by('nbdev_export', folder) == [f'{PACKAGE}/toolbox/checks.py']


def write_notebook(path, *cells):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source, id=f'cell-{place}', outputs=outputs)
                                                   for place, (source, outputs) in enumerate(cells, start=1)]), path)
    return path


def test_stale_notebook(tmp_path):
    shown = [nbformat.v4.new_output('execute_result', data={'text/plain': '3'})]
    path = write_notebook(tmp_path / '01_stale.ipynb', ('object()', []), ('1 + 1', shown), ('1 + 2', shown))
    complaints = stale_outputs(path)
    assert [complaint.splitlines()[0] for complaint in complaints] == [
        '01_stale, cell 1 (id cell-1) has no stored run',
        '01_stale, cell 2 (id cell-2) is stored with another output than it now gives']


def test_failing_notebook(tmp_path):
    path = write_notebook(tmp_path / '01_fails.ipynb', ('x = 0', []), ('1 / x', []))
    assert stale_outputs(path) == ['01_fails, cell 2 (id cell-2): 1 / x\nZeroDivisionError: division by zero']


def test_nbdev_test_fails(tmp_path):
    folder = copy_checkout(tmp_path / 'copy')
    path = write_notebook(folder / 'nbs/99_fails.ipynb', ('assert 1 + 1 == 3', []))
    assert nbdev('nbdev_test', '--path', path, folder=folder).returncode != 0


def test_nbdev_test_alone_fails(tmp_path):
    path = write_notebook(tmp_path / '99_fails.ipynb', ('assert 1 + 1 == 3', []))
    status, said = nbdev_test_alone(path, tmp_path / 'log')
    assert status and 'AssertionError' in said and 'Success.' not in said
