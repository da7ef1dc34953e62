"""Every public name of the toolbox and of the face says what it takes and gives, and its example runs."""
import doctest
import inspect
import re
from importlib import import_module

import backprop_course
import pytest
import torch
from checkout import insist
from package import import_all
from run_notebooks import ROOT

MODULES = [f'backprop_course.toolbox.{path.stem}' for path in sorted((ROOT / 'backprop_course/toolbox').glob('*.py')) if path.stem != '__init__']


def public(module):
    "The functions and classes that a module defines and exports, by name."
    own = import_module(module)
    return {name: value for name in own.__all__ if callable(value := getattr(own, name)) and getattr(value, '__module__', None) == module}


EVERYTHING = {name: value for module in MODULES for name, value in public(module).items()}
EVERYTHING |= {name: getattr(backprop_course, name) for name in dir(backprop_course) if not name.startswith('_')}

NOTHING = 'None', "<class 'NoneType'>", 'collections.abc.Iterator[None]'  # return annotations that say that nothing comes back


def gaps(name, value):
    "What the documentation of a public function or class lacks."
    text = inspect.getdoc(value) or ''
    if inspect.isclass(value) and issubclass(value, BaseException):
        return [] if text else [f'{name} has no docstring']
    complaints = [] if '>>>' in text else [f'{name} has no example']
    if inspect.isclass(value) and issubclass(value, dict | str | list) or inspect.isclass(value) and '__init__' not in vars(value):
        parameters = []
    else:
        parameters = [('*' * {p.VAR_POSITIONAL: 1, p.VAR_KEYWORD: 2}.get(p.kind, 0)) + p.name for p in inspect.signature(value).parameters.values()]
    for parameter in parameters:
        if not re.search(rf'^\s+{re.escape(parameter)}(?:, [\w*, ]+)?: \S', text, re.M) and not re.search(
                rf'^\s+[\w*, ]*\b{re.escape(parameter.lstrip("*"))}\b[\w*, ]*: \S', text, re.M):
            complaints.append(f'{name} does not say what {parameter} is')
    if parameters and not inspect.isclass(value) and 'Returns:' not in text and str(inspect.signature(value).return_annotation) not in NOTHING:
        complaints.append(f'{name} does not say what it returns')
    return complaints


@pytest.mark.parametrize('name', EVERYTHING)
def test_documented(name):
    complaints = gaps(name, EVERYTHING[name])
    insist(not complaints, '\n'.join(complaints))


def test_gaps_are_found():
    def f(a: int, b: int) -> int:
        """Add.

        Args:
            a: a number.
        """
    assert gaps('f', f) == ['f has no example', 'f does not say what b is', 'f does not say what it returns']


@pytest.mark.parametrize('name', EVERYTHING)
def test_examples(name):
    "As in a fresh interpreter where the name, its module's names and torch are imported."
    value = EVERYTHING[name]
    scope = {**vars(import_module(value.__module__)), 'torch': torch}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said = []
    for test in doctest.DocTestFinder(recurse=inspect.isclass(value)).find(value, name, globs=scope):
        torch.manual_seed(0)
        runner.run(test, out=said.append)
    insist(not runner.summarize(verbose=False).failed, ''.join(said))


# ---- A result that can be asserted is false when it failed.

def true_when_failed(results):
    "Those classes with an `ok` that are true where it is False, or false where it is True."
    def reads(kind, ok):
        return bool(object.__new__(type('Result', (kind,), {'ok': ok}))) is ok
    return [kind.__name__ for kind in results if not (reads(kind, True) and reads(kind, False))]


def test_a_result_that_failed_is_false():
    classes = {value for module in import_all().values() for value in vars(module).values()
               if inspect.isclass(value) and value.__module__.startswith('backprop_course') and (hasattr(value, 'ok') or 'ok' in vars(value).get('__annotations__', {}))}
    assert {'Statement', 'Proof', 'ProofTable'} <= {kind.__name__ for kind in classes}
    complaints = true_when_failed(classes)
    insist(not complaints, f'{", ".join(complaints)}: `assert result` passes where .ok is False; give it a __bool__ that returns self.ok')


def test_results_that_are_true_when_they_failed_are_found():
    class Silent:
        ok = False
    class Right(Silent):
        def __bool__(self): return self.ok
    class Turned(Silent):
        def __bool__(self): return not self.ok
    assert true_when_failed([Silent, Right, Turned]) == ['Silent', 'Turned']
