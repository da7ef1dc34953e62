"The modules of the package, lessons and tools, imported: whatever rules they state are registered then."
from importlib import import_module
from types import ModuleType

from run_notebooks import ROOT
from structure import PACKAGE


def import_all() -> dict[str, ModuleType]:
    "Every module of the package, by its name."
    paths = sorted(path.relative_to(ROOT).with_suffix('') for path in (ROOT / PACKAGE).rglob('*.py') if not path.stem.startswith('_'))
    return {name: import_module(name) for name in ('.'.join(path.parts) for path in paths)}
