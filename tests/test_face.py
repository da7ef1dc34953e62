"""What `import backprop_course` gives: a dozen names and more, at no cost, each one thing only."""
import inspect
from importlib import import_module

import backprop_course
import pytest
from checkout import insist, python
from run_notebooks import ROOT

NAMES = [name for name in dir(backprop_course) if not name.startswith('_')]


def test_names_are_there():
    for name in ('check_gradient', 'prove_gradient', 'numerical_gradient', 'explain_broadcast', 'explain_einsum', 'trace_backward',
                 'Variable', 'einsum_backward', 'rule_for'):
        assert name in NAMES


@pytest.mark.parametrize('name', NAMES)
def test_name_is_what_its_module_has(name):
    function = getattr(backprop_course, name)
    assert getattr(import_module(function.__module__), name) is function
    assert inspect.getdoc(function)


def test_no_name_is_a_module_too():
    "`from backprop_course import einsum` must not be the module or the function, as luck has it."
    modules = {path.stem for path in (ROOT / 'backprop_course').glob('*.py')}
    insist(not modules & set(NAMES), f'these are modules, and names of the face: {sorted(modules & set(NAMES))}')


def test_unknown_name():
    with pytest.raises(AttributeError, match='check_gradients'):
        backprop_course.check_gradients
    with pytest.raises(ImportError, match='check_gradients'):
        from backprop_course import check_gradients  # noqa: F401


def test_import_is_free():
    "Nothing of weight is loaded before a name is used, and then no more than torch."
    done = python('-c', 'import sys, backprop_course; dir(backprop_course); print({"torch", "numpy", "sympy", "matplotlib"} & set(sys.modules))')
    assert done.stdout.strip() == 'set()', done.stdout
    done = python('-c', 'import sys, backprop_course; backprop_course.check_gradient; print({"sympy", "matplotlib", "IPython"} & set(sys.modules))')
    assert done.stdout.strip() == 'set()', done.stdout
