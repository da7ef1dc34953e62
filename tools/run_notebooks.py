"""Run notebooks top to bottom, each in a fresh Jupyter kernel, as a learner would.

    python tools/run_notebooks.py                            every notebook of nbs/
    python tools/run_notebooks.py nbs/02_broadcasting.ipynb  some of them
    ... --store    write the outputs back into the notebook (then run nbdev_clean and nbdev_export)
    ... --out DIR  write what was run to DIR, as notebooks and as pages
"""
import argparse
import ast
import re
import subprocess
import sys
import time
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / 'nbs'


@dataclass
class Run:
    "One notebook that was run: the notebook with its new outputs, and what went wrong, if anything did."
    path: Path
    notebook: nbformat.NotebookNode
    seconds: float
    error: str = ''  # the chapter, the cell and the error; empty if all cells ran


def find_notebooks() -> list[Path]:
    "Lessons and side trips in the order of their numbers, the index, then the toolbox."
    found = [path for path in NOTEBOOKS.rglob('*.ipynb') if not any(part.startswith('.') for part in path.relative_to(NOTEBOOKS).parts)]
    return sorted(found, key=lambda path: (len(path.parts), path))


def name_of(path: Path) -> str:
    "What a notebook is called: its path under nbs/ without suffix, or its stem where it lies elsewhere."
    path = path.resolve()
    return path.relative_to(NOTEBOOKS).with_suffix('').as_posix() if path.is_relative_to(NOTEBOOKS) else path.stem


def has_directive(cell: nbformat.NotebookNode, name: str) -> bool:
    "Whether the code cell has the line `#| name`."
    return cell.cell_type == 'code' and f'#| {name}' in (line.strip() for line in cell.source.splitlines())


def name_cell(chapter: str, place: int, cell: dict) -> str:
    "How messages name the cell at `place`, counted from 0, of a chapter."
    return f'{chapter}, cell {place + 1} (id {cell.get("id", "missing")})'


def kernel_of_this_python() -> AsyncKernelManager:
    "A kernel that runs the Python that runs this file, whatever kernels the machine has registered."
    manager = AsyncKernelManager(kernel_name='python3')
    manager.kernel_spec_manager = KernelSpecManager(ensure_native_kernel=True)
    manager.kernel_spec.argv = [sys.executable, '-m', 'ipykernel_launcher', '--log-level=ERROR', '-f', '{connection_file}']
    return manager


def run_notebook(path: Path, timeout: int = 300) -> Run:
    "Run all cells of the notebook at `path` in a fresh kernel, each within `timeout` seconds."
    try:
        notebook = nbformat.read(path, as_version=4)
    except ValueError as problem:  # not JSON, as after a merge with conflicts
        return Run(path, nbformat.v4.new_notebook(), 0., f'{name_of(path)} is no readable notebook\n{str(problem)[:200]}')
    started = time.monotonic()
    client = NotebookClient(notebook, km=kernel_of_this_python(), timeout=timeout, resources={'metadata': {'path': str(path.parent)}})
    error = ''
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as problem:
        error = describe_failure(path, notebook, problem)
    return Run(path, notebook, time.monotonic() - started, error)


def describe_failure(path: Path, notebook: nbformat.NotebookNode, problem: Exception) -> str:
    "The chapter, the cell that failed (its place, id and first line) and the error, in three lines."
    last_started = max((place for place, cell in enumerate(notebook.cells) if 'iopub.execute_input' in cell.metadata.get('execution', {})), default=0)
    cell = notebook.cells[last_started]
    errors = [out for out in cell.get('outputs', []) if out.output_type == 'error']
    what = f'{errors[0].ename}: {errors[0].evalue}' if errors else str(problem).strip()
    first_line = next((line for line in cell.source.splitlines() if line.strip() and not line.startswith('#')), '')
    return f'{name_cell(name_of(path), last_started, cell)}: {first_line}\n{what}'


def store(run: Run) -> None:
    "Write the outputs of `run` into its notebook. A cell that only varies, and is as it was committed, keeps what it had."
    before = committed(run.path)
    for cell in run.notebook.cells:
        cell.metadata.pop('execution', None)
        merge_streams(cell)
        fold_imports(cell)
        old = before.get(cell.get('id'))
        if has_directive(cell, 'varies') and old and old.source == cell.source and old.outputs:
            cell.outputs = old.outputs
    nbformat.write(run.notebook, run.path)


def committed(path: Path) -> dict[str, nbformat.NotebookNode]:
    "The code cells of a notebook as git has them, by id; none where there is no git, or no such file in it."
    try:
        shown = subprocess.run(['git', 'show', f'HEAD:./{path.name}'], cwd=path.parent, capture_output=True, text=True, encoding='utf-8', check=True)
        notebook = nbformat.reads(shown.stdout, as_version=4)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return {}
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == 'code' and 'id' in cell}


def is_imports(source: str) -> bool:
    "Whether code does nothing but import."
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a magic, for example
        return False
    return bool(body) and all(isinstance(line, (ast.Import, ast.ImportFrom)) for line in body)


def fold_imports(cell: nbformat.NotebookNode) -> None:
    "Mark a cell of imports, so that JupyterLab (`source_hidden`) and pages (`hide-input`) fold it; unmark another."
    folded = {'jupyter': {'source_hidden': True}, 'tags': ['hide-input']} if cell.cell_type == 'code' and is_imports(cell.source) else {}
    for key in ('jupyter', 'tags'):
        cell.metadata.pop(key, None)
    cell.metadata.update(folded)


def merge_streams(cell: nbformat.NotebookNode) -> None:
    "Join neighbouring pieces of the same stream: how print was cut into pieces differs from run to run."
    merged = []
    for output in cell.get('outputs', []):
        if merged and output.output_type == 'stream' and merged[-1].get('name') == output.name:
            merged[-1].text += output.text
        else:
            merged.append(output)
    if 'outputs' in cell:
        cell.outputs = merged


FOLD = """<script>for (const code of document.querySelectorAll('.celltag_hide-input .jp-Cell-inputWrapper')) {
  const folded = document.createElement('details'), title = document.createElement('summary');
  title.textContent = 'Imports';
  code.replaceWith(folded);
  folded.append(title, code);
}</script></body>"""


def write_page(run: Run, folder: Path) -> Path:
    "Write the notebook that was run into `folder`, as .ipynb and as a page whose mathematics needs no network."
    from nbconvert import HTMLExporter
    target = folder / f'{name_of(run.path)}.html'
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(run.notebook, target.with_suffix('.ipynb'))
    shown = nbformat.from_dict(run.notebook)
    for cell in shown.cells:
        if cell.cell_type == 'markdown':
            cell.source = mathematics_to_mathml(cell.source).replace('.ipynb)', '.html)')
            cell.source = embed_pictures(cell.source, run.path.parent)
        if cell.source.startswith('#| echo: false'):
            cell.metadata['transient'] = {'remove_source': True}
        for output in cell.get('outputs', []):
            if latex := output.get('data', {}).pop('text/latex', None):
                output.data['text/html'] = mathematics_to_mathml(latex)
            if markdown := output.get('data', {}).get('text/markdown'):
                output.data['text/markdown'] = mathematics_to_mathml(markdown)
    exporter = HTMLExporter(mathjax_url='', require_js_url='', jquery_url='', mermaid_js_url='')
    for cell in shown.cells:
        fold_imports(cell)
    page, _ = exporter.from_notebook_node(shown, resources={'metadata': {'name': run.path.stem}})
    target.write_text(page.replace('</body>', FOLD), encoding='utf-8')
    return target


def embed_pictures(markdown: str, folder: Path) -> str:
    "Put the PNG files that the text shows into the page itself. (nbconvert's own `embed_images` spoils MathML.)"
    def embedded(match):
        picture = b64encode((folder / unquote(match[2] or match[3])).read_bytes()).decode()
        return f'{match[1]}(data:image/png;base64,{picture})'
    return re.sub(r'(!\[[^\]]*\])\((?!\w+:)(?:<([^>]+\.png)>|([^)\s]+\.png))\)', embedded, markdown)


def mathematics_to_mathml(markdown: str) -> str:
    "Replace `$...$` and `$$...$$` outside code by MathML, which browsers draw by themselves."
    from latex2mathml.converter import convert
    pattern = re.compile(r'(?P<code>```.*?```|`[^`\n]*`)|\$\$(?P<block>.+?)\$\$|(?<![\\$])\$(?P<inline>[^$\n]+?)\$', re.S)

    def replace(match: re.Match) -> str:
        if match['code']:
            return match['code']
        try:
            return convert((match['block'] or match['inline']).strip(), display='block' if match['block'] else 'inline')
        except Exception:  # the converter's errors have no common class; tests/structure.py finds what stays as it is
            return match[0]
    return pattern.sub(replace, markdown)


def show_ladder(runs: list[Run]) -> None:
    "Print the speed ladder that chapter 03 measured in this run: what its cell marked `#| ladder` printed."
    for run in runs:
        for cell in run.notebook.cells:
            if has_directive(cell, 'ladder'):
                text = ''.join(out.get('text', '') for out in cell.outputs)
                print(f'\nThe speed ladder, as {name_of(run.path)} measured it just now:\n\n{text.rstrip()}')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('notebooks', nargs='*', type=Path, help='which notebooks (all of nbs/ if none is named)')
    parser.add_argument('--store', action='store_true', help='write the outputs back into the notebooks')
    parser.add_argument('--out', type=Path, help='a folder for what was run, as notebooks and as pages')
    options = parser.parse_args()

    paths = options.notebooks or find_notebooks()
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        parser.error(f'no such notebook: {", ".join(missing)}')
    runs, pages = [], []
    for place, path in enumerate(paths, start=1):
        print(f'[{place}/{len(paths)}] {name_of(path):<22}', end=' ', flush=True)
        run = run_notebook(path)
        runs.append(run)
        print(f'{"failed" if run.error else "ok":<6} {run.seconds:5.1f} s', flush=True)
        if run.error:
            print('    ' + run.error.replace('\n', '\n    '), flush=True)
        elif options.store:
            store(run)
        if options.out:
            pages.append(write_page(run, options.out))
    show_ladder(runs)
    failed = [name_of(run.path) for run in runs if run.error]
    if failed:
        print(f'\n{len(failed)} of {len(runs)} notebooks failed: {", ".join(failed)}')
    if options.out:
        first = next((page for page in pages if page.name == 'index.html'), pages[0])
        print(f'\nRead the result: open {first.resolve()} in a browser.\nOpen the lab: make lab (or: jupyter lab nbs).')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
