"""The commands in tools/ and bench/ do what the README says, and fail as they should."""
import shutil
import sys
from urllib.parse import quote

import nbformat
import pytest
from checkout import copy_checkout, insist, python, run
from run_notebooks import ROOT, find_notebooks, has_directive


def write_notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(source, id=f'cell-{place}') for place, source in enumerate(sources, start=1)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_runner_goes_on_after_a_failure(tmp_path):
    good = write_notebook(tmp_path / '01_good.ipynb', '#| varies\n#| ladder\nprint("loops 1.0")')
    bad = write_notebook(tmp_path / '02_bad.ipynb', 'x = 0', '# why not\n1 / x', 'print("never")')
    broken = tmp_path / '03_broken.ipynb'
    broken.write_text('<<<<<<< a merge', encoding='utf-8')
    last = write_notebook(tmp_path / '04_last.ipynb', 'import sys', 'sys.version')
    done = python('tools/run_notebooks.py', good, bad, broken, last, '--out', tmp_path / 'a folder')
    assert done.returncode == 1, done.stdout
    for words in ('[1/4] 01_good                ok', '[2/4] 02_bad                 failed', '[4/4] 04_last                ok',
                  '02_bad, cell 2 (id cell-2): 1 / x', 'ZeroDivisionError: division by zero', '03_broken is no readable notebook',
                  'loops 1.0', '2 of 4 notebooks failed: 02_bad, 03_broken', f'open {tmp_path / "a folder" / "01_good.html"}'):
        assert words in done.stdout, f'{words!r} is missing in\n{done.stdout}'
    assert (tmp_path / 'a folder' / '04_last.html').stat().st_size > 1000


def test_page_shows_mathematics_and_pictures(tmp_path):
    "The page alone: formulas as MathML that is whole, the pictures of the text inside it."
    path = tmp_path / '01_page.ipynb'
    folder = tmp_path / 'with a space and an ü'
    folder.mkdir()
    shutil.copy(ROOT / 'docs/images/stepper.png', folder / 'stepper.png')
    text = rf'$\frac{{a}}{{b}}$ and ![steps]({quote(folder.name)}/stepper.png) and ![steps](<{folder.name}/stepper.png>)'
    shown = r"from IPython.display import Markdown; Markdown(r'| $\frac{c}{d}$ |')"
    cells = [nbformat.v4.new_markdown_cell(text, id='text'), nbformat.v4.new_code_cell(shown, id='shown')]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    done = python('tools/run_notebooks.py', path, '--out', tmp_path / 'pages')
    page = (tmp_path / 'pages/01_page.html').read_text(encoding='utf-8')
    assert done.returncode == 0 and '<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac>' in page, done.stdout
    assert '<mfrac><mrow><mi>c</mi></mrow><mrow><mi>d</mi></mrow></mfrac>' in page
    assert page.count('src="data:image/png;base64,') == 2 and 'stepper.png' not in page


def test_runner_names_a_missing_file(tmp_path):
    done = python('tools/run_notebooks.py', tmp_path / 'no.ipynb')
    assert done.returncode == 2 and f'no such notebook: {tmp_path / "no.ipynb"}' in done.stdout


def test_store_keeps_what_only_varies(tmp_path):
    "A varying cell that is as committed keeps its output; one that was changed, and all others, get the new one."
    def notebook(*sources):
        return write_notebook(tmp_path / '01_timing.ipynb', *sources)

    def stored(path):
        return [''.join(output.get('text', '') for output in cell.outputs) for cell in nbformat.read(path, as_version=4).cells]

    clock = '#| varies\nimport time; print(time.time_ns())'
    path = notebook(clock, clock, 'print(1)')
    assert python('tools/run_notebooks.py', path, '--store').returncode == 0
    for command in (['init', '-q'], ['add', '.'], ['-c', 'user.name=a', '-c', 'user.email=a@example.org', 'commit', '-qm', 'a']):
        assert run('git', *command, folder=tmp_path).returncode == 0
    before = stored(path)
    path = notebook(clock, clock + '  # changed', 'print(2)')
    assert python('tools/run_notebooks.py', path, '--store').returncode == 0
    after = stored(path)
    assert after[0] == before[0] and after[1] != before[1] and after[2] == '2\n'


def test_chapter_runs_stores_cleans_exports_and_tests(tmp_path):
    folder = copy_checkout(tmp_path / 'copy')
    index = folder / 'nbs/toolbox/checks.ipynb'
    notebook = nbformat.read(index, as_version=4)
    notebook.cells += [nbformat.v4.new_code_cell('#| export\ndef double(x: float) -> float: return 2 * x', id='double'),
                       nbformat.v4.new_code_cell('double(21)', id='use')]
    nbformat.write(notebook, index)
    done = python('tools/chapter.py', 'toolbox/checks', folder=folder)
    assert 'double' in (folder / 'backprop_course/toolbox/checks.py').read_text(encoding='utf-8'), done.stdout
    assert nbformat.read(index, as_version=4).cells[-1].outputs[0].data['text/plain'] == '42'
    assert 'passed' in done.stdout
    nothing = python('tools/chapter.py', '77', folder=folder)
    assert nothing.returncode == 2 and "no notebook begins with '77'" in nothing.stdout


@pytest.mark.skipif(sys.platform == 'win32', reason='a script for POSIX shells')
def test_bare_machine_shows_the_basic_tools_alone():
    done = run('tools/bare', 'bash', '-c', 'command -v git make python3 sed; ls $PATH', folder=ROOT)
    assert done.returncode == 0 and len(set(done.stdout.split()) & {'git', 'make', 'python3', 'sed'}) == 4, done.stdout
    assert not set(done.stdout.split()) & {'dot', 'chromium', 'curl', 'apt-get'}
    assert run('tools/bare', 'bash', '-c', 'exit 3', folder=ROOT).returncode == 3


def test_course_has_a_ladder_and_a_first_page():
    notebooks = find_notebooks()
    ladders = [path.stem for path in notebooks for cell in nbformat.read(path, as_version=4).cells if has_directive(cell, 'ladder')]
    assert ladders == ['03_einsum'], 'make course shows what one cell, marked #| ladder, prints'
    assert 'index' in [path.stem for path in notebooks], 'make course sends the reader to the page of nbs/index.ipynb'


def test_readme_is_current():
    done = python('tools/write_readme.py', '--check')
    insist(done.returncode == 0, done.stdout)


def test_readme_is_stale(tmp_path):
    folder = copy_checkout(tmp_path / 'copy')
    index = folder / 'nbs/index.ipynb'
    notebook = nbformat.read(index, as_version=4)
    output = nbformat.v4.new_output('stream', text='5\n')
    notebook.cells += [nbformat.v4.new_markdown_cell('[a](toolbox/checks.ipynb), [b](../LICENSE), [c](#d), `[e](f)`'),
                       nbformat.v4.new_code_cell('#| varies\nprint(5)', outputs=[output])]
    nbformat.write(notebook, index)
    check = python('tools/write_readme.py', '--check', folder=folder)
    assert check.returncode == 1 and 'README.md. Run: make readme' in check.stdout
    assert python('tools/write_readme.py', folder=folder).returncode == 0
    assert python('tools/write_readme.py', '--check', folder=folder).returncode == 0
    readme = (folder / 'README.md').read_text(encoding='utf-8')
    assert readme.endswith('[a](nbs/toolbox/checks.ipynb), [b](LICENSE), [c](#d), `[e](f)`\n\n'
                           '```python\nprint(5)\n```\n\n```text\n5\n```\n')


def test_readme_refuses_another_address(tmp_path):
    folder = copy_checkout(tmp_path / 'copy')
    index = folder / 'nbs/index.ipynb'
    notebook = nbformat.read(index, as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell('git clone https://example.org/elsewhere'))
    nbformat.write(notebook, index)
    done = python('tools/write_readme.py', folder=folder)
    assert done.returncode == 1 and 'git_url in settings.ini' in done.stdout


def test_bench_runs():
    "That it runs and that all four ways agree; nothing about time."
    done = python('bench/speed.py', '--sizes', '5,4,3', '1,2,1', '--repeats', '2')
    assert done.returncode == 0 and 'engine/autograd' in done.stdout and '@' in done.stdout and 'traced/layers' in done.stdout, done.stdout


def test_bench_refuses_wrong_gradients(tmp_path):
    folder = copy_checkout(tmp_path / 'copy')
    with open(folder / 'backprop_course/backward.py', 'a', encoding='utf-8') as module:
        module.write('\n\nright = lin_backward\n'
                     'def lin_backward(*args, **options):\n'
                     '    grad_inp, grad_w, grad_b = right(*args, **options)\n'
                     '    return grad_inp, grad_w, 1.01 * grad_b\n')
    done = python('bench/speed.py', '--sizes', '5,4,3', '--repeats', '2', '--no-ladder', folder=folder)
    assert done.returncode == 1 and 'AssertionError: functions' in done.stdout, done.stdout
