"""What must be true of notebooks and modules: functions that return complaints, and none when all is well.

Each is given what it judges, so that test_structure.py can also give it something wrong on purpose.
"""
import ast
import json
import re
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager
from run_notebooks import is_imports, mathematics_to_mathml, name_cell

PACKAGE = 'backprop_course'
LONGEST_CELL = 25  # lines of code, in lessons and side trips


def read(path: Path) -> dict:
    "The notebook as its file has it (nbformat would mend it while reading), with each source as one string."
    notebook = json.loads(path.read_text(encoding='utf-8'))
    for cell in notebook['cells']:
        cell['source'] = ''.join(cell['source'])
    return notebook


# ---- cells

def check_cells(chapter: str, notebook: dict) -> list[str]:
    "What is wrong with the cells of a notebook as they are written."
    complaints, seen = [], set()
    for place, cell in enumerate(notebook['cells']):
        where = name_cell(chapter, place, cell)
        if not cell.get('id'):
            complaints.append(f'{where} has no id: run nbdev_clean')
        elif cell['id'] in seen:
            complaints.append(f'{where} has the id of an earlier cell: give it one of its own')
        seen.add(cell.get('id'))
        metadata = cell.get('metadata', {})
        folded = 'hide-input' in metadata.get('tags', []) and metadata.get('jupyter', {}).get('source_hidden', False)
        if folded is not (cell['cell_type'] == 'code' and is_imports(cell['source'])):
            complaints.append(f'{where} {"is folded, and does more than import" if folded else "imports only, and is not folded"}: '
                              f'store it, python tools/run_notebooks.py nbs/{chapter}.ipynb --store')
        if cell['cell_type'] == 'code':
            lines = [line for line in cell['source'].splitlines() if line.strip() and not line.strip().startswith('#')]
            if len(lines) > LONGEST_CELL and shelf(chapter) != 'toolbox':
                complaints.append(f'{where} has {len(lines)} lines of code: split it, {LONGEST_CELL} at most')
            if re.search(r'^\s*from\s+\S+\s+import\s+\*', cell['source'], re.M):
                complaints.append(f'{where} imports *: name what it needs')
        elif cell['cell_type'] == 'markdown':
            for formula in unreadable_formulas(cell['source']):
                complaints.append(f'{where} has mathematics that the page cannot show: {formula}')
    return complaints


def unreadable_formulas(markdown: str) -> list[str]:
    "What `tools/run_notebooks.py` cannot turn into MathML: formulas that stay, and commands that come out as letters."
    shown = re.sub(r'```.*?```|`[^`\n]*`', '', mathematics_to_mathml(markdown), flags=re.S)
    return re.findall(r'\$.*?\$|\$|(?<=>)\\[a-zA-Z]+(?=<)', shown, flags=re.S)


def check_stored_outputs(chapter: str, notebook: dict) -> list[str]:
    "What is wrong with the outputs that a notebook is stored with, whatever a new run would give."
    complaints = []
    for place, cell in enumerate(notebook['cells']):
        where = name_cell(chapter, place, cell)
        for output in cell.get('outputs', []):
            if output['output_type'] == 'error':
                complaints.append(f'{where} is stored with an error, {output["ename"]}: mend it and run it again')
            if output.get('name') == 'stderr':
                complaints.append(f'{where} is stored with a warning: {"".join(output["text"])[:200]}')
            if 'image/png' in output.get('data', {}):
                alt = output.get('metadata', {}).get('image/png', {}).get('alt', '')
                if not alt.strip():
                    complaints.append(f'{where} is stored with a picture without alt text: show it by show_figure(ax, alt=...)')
    return complaints


# ---- the three shelves

def shelf(notebook: str) -> str | None:
    "Where a notebook stands, by its path under nbs/ without suffix: lesson, side trip or toolbox; None for the index."
    for kind, pattern in (('lesson', r'\d\d_\w+'), ('side trip', r'\d\d[a-z]_\w+'), ('toolbox', r'toolbox/\w+')):
        if re.fullmatch(pattern, notebook):
            return kind
    return None


def exported_module(notebook: dict) -> str | None:
    "What the notebook's `#| default_exp` names."
    for cell in notebook['cells']:
        if cell['cell_type'] == 'code' and (match := re.search(r'^#\|\s*default_exp\s+(\S+)', cell['source'], re.M)):
            return match[1]
    return None


def check_modules(exports: dict[str, str | None], modules: Iterable[str]) -> list[str]:
    "`exports` says which module each notebook exports (by its path under nbs/, without suffix); `modules` are there."
    complaints, owner = [], {}
    for notebook, module in exports.items():
        if module is None:
            if shelf(notebook) == 'toolbox':
                complaints.append(f'{notebook} has no #| default_exp: add "#| default_exp {notebook.replace("/", ".")}" in a cell of its own')
            continue
        expected = notebook.replace('/', '.') if shelf(notebook) == 'toolbox' else notebook.partition('_')[2]
        if not shelf(notebook) or module != expected:
            complaints.append(f'{notebook} exports {module}: NN_name exports the module name, toolbox/name the module toolbox.name')
        if module in owner:
            complaints.append(f'{owner[module]} and {notebook} both export {module}: one overwrites the other')
        owner[module] = notebook
        if module not in modules:
            complaints.append(f'{notebook} exports {module}, which is not in {PACKAGE}/: run nbdev_export')
    for module in modules:
        if module not in owner:
            complaints.append(f'{PACKAGE}/{module.replace(".", "/")}.py has no notebook: delete it, or bring its notebook back')
    return complaints


# ---- imports

def python_of(notebook: dict) -> str:
    "The code of all cells as plain Python, magics included."
    code = [re.sub(r'\A\s*%%.*', '', cell['source']) for cell in notebook['cells'] if cell['cell_type'] == 'code']
    return '\n'.join(TransformerManager().transform_cell(source) for source in code)


def imported_names(source: str, module: str = '') -> Iterator[tuple[str, str]]:
    "(module, name) of all that Python code takes from our package, inside functions too; `module` is where the code stands."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, '') for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = [PACKAGE, *module.split('.')][:-node.level] if node.level else []
            yield from (('.'.join(filter(None, [*above, node.module])), alias.name) for alias in node.names)


def imported_modules(source: str, modules: Iterable[str], module: str = '') -> set[str]:
    "Which of our `modules` Python code imports."
    found = {f'{start}.{name}' if name else start for start, name in imported_names(source, module)}
    found |= {start for start, _ in imported_names(source, module)}
    return {name.removeprefix(f'{PACKAGE}.') for name in found} & set(modules)


def check_arrows(name: str, imports: Iterable[str], home: dict[str, str]) -> list[str]:
    """What the notebook `name` may not import; `home` says which notebook each module comes from.

    The toolbox imports the toolbox. A lesson imports earlier lessons and the toolbox, a side trip whatever is not later than itself."""
    kind, complaints = shelf(name), []
    for module in sorted(imports):
        other = home[module]
        later = other[:3].rstrip('_') > name[:3].rstrip('_') or (other[:2] == name[:2] and other > name)
        if shelf(other) == 'toolbox' or kind is None or other == name:
            continue
        if kind == 'toolbox':
            complaints.append(f'{name} imports {other}: the toolbox knows no lesson; take what is needed as an argument')
        elif kind == 'lesson' and shelf(other) == 'side trip':
            complaints.append(f'{name} imports {other}: nothing on the main line needs a side trip')
        elif later:
            complaints.append(f'{name} imports {other}, which comes no earlier: imports point backwards')
    return complaints


def check_circles(imports: dict[str, set[str]]) -> list[str]:
    "Modules that import each other in a circle, by the modules that each one imports."
    try:
        list(TopologicalSorter(imports).static_order())
    except CycleError as error:
        return [f'these import each other in a circle: {" -> ".join(error.args[1])}']
    return []


def check_private(name: str, source: str, module: str = '') -> list[str]:
    "What begins with an underscore belongs to its module."
    return [f'{name} imports {taken} from {start}: a name with an underscore stays in its module; make it public, or do without'
            for start, taken in imported_names(source, module) if start.startswith(PACKAGE) and re.match(r'_[^_]', taken)]


# ---- the index

def check_index(index: dict, names: Iterable[str]) -> list[str]:
    "Every notebook has a link in the index."
    text = '\n'.join(cell['source'] for cell in index['cells'] if cell['cell_type'] == 'markdown')
    return [f'index.ipynb has no link to {name}.ipynb' for name in names if name != 'index' and f']({name}.ipynb)' not in text]


# ---- the tests

def check_test_files(modules: Iterable[str], files: Iterable[str]) -> list[str]:
    "Each module has a test file of its name."
    missing = sorted(f'test_{module.rpartition(".")[2]}.py' for module in modules if f'test_{module.rpartition(".")[2]}.py' not in set(files))
    return [f'tests/{name} is missing: tests of a module stand in a file of its name' for name in missing]
