"""What must be true of notebooks and modules: functions that return complaints, and none when all is well.

Each is given what it judges, so that test_structure.py can also give it something wrong on purpose.
"""
import ast
import json
import re
from collections.abc import Iterable
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager
from run_notebooks import mathematics_to_mathml, name_cell

PACKAGE = 'backprop_course'
LONGEST_CELL = 25
MODULE_OF = {'numpy': 'numpy_edition'}  # where the module can't be called as its notebook: it would be taken for NumPy


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
        if cell['cell_type'] == 'code':
            lines = [line for line in cell['source'].splitlines() if line.strip() and not line.strip().startswith('#')]
            if len(lines) > LONGEST_CELL:
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


# ---- one notebook, one module

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
        numbered = re.fullmatch(r'\d\d_(\w+)', notebook)
        expected = numbered and MODULE_OF.get(numbered[1], numbered[1])
        if numbered and module is None:
            complaints.append(f'{notebook} has no #| default_exp: add "#| default_exp {expected}" in a cell of its own')
        if module is None:
            continue
        if not numbered or module != expected:
            complaints.append(f'{notebook} exports {module}: the notebook NN_name exports the module name')
        if module in owner:
            complaints.append(f'{owner[module]} and {notebook} both export {module}: one overwrites the other')
        owner[module] = notebook
        if module not in modules:
            complaints.append(f'{notebook} exports {module}, which is not in {PACKAGE}/: run nbdev_export')
    for module in modules:
        if module not in owner:
            complaints.append(f'{PACKAGE}/{module}.py has no notebook: delete it, or bring its notebook back')
    return complaints


# ---- imports

def python_of(notebook: dict) -> str:
    "The code of all cells as plain Python, magics included."
    code = [re.sub(r'\A\s*%%.*', '', cell['source']) for cell in notebook['cells'] if cell['cell_type'] == 'code']
    return '\n'.join(TransformerManager().transform_cell(source) for source in code)


def imported_modules(source: str) -> set[str]:
    "The names in our package that Python code imports, inside functions too."
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = '.'.join(filter(None, [PACKAGE if node.level else '', node.module]))
            names = [start, *(f'{start}.{alias.name}' for alias in node.names)]
        found |= {name.split('.')[1] for name in names if name.startswith(f'{PACKAGE}.')}
    return found


def check_imports(name: str, source: str, allowed: Iterable[str], chapters: Iterable[str]) -> list[str]:
    "Of the modules `chapters`, the code of `name` may import those that are `allowed`."
    too_late = sorted(imported_modules(source) & set(chapters) - set(allowed))
    return [f'{name} imports {PACKAGE}.{module}, which comes no earlier in the course: imports point backwards'
            for module in too_late]
