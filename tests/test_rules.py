"""Every gradient rule of the package is registered, and proved by every witness that has no stated reason to be silent."""
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import pytest
from backprop_course.backward import prove_rules
from backprop_course.toolbox.rules import RULES
from checkout import insist
from run_notebooks import ROOT
from structure import PACKAGE

MODULES = {path.stem: import_module(f'{PACKAGE}.{path.stem}')  # importing a module registers its rules
           for path in sorted((ROOT / PACKAGE).glob('*.py')) if not path.stem.startswith('_')}


def unregistered(modules, rules):
    "The public rules, functions called f_backward beside a function f, that are not on the list `rules`."
    pairs = [(name, getattr(module, stem), function) for module in modules.values() for name, function in vars(module).items()
             if not name.startswith('_') and (stem := name.removesuffix('_backward')) != name and callable(getattr(module, stem, None))]
    return sorted({name for name, f, rule in pairs if f not in rules or rules[f].f_backward is not rule})


def test_every_rule_is_registered():
    names = unregistered(MODULES, RULES)
    insist(not names, f'{", ".join(names)}: add register_rule(...) in the chapter that exports it, as chapter 06 does')


@pytest.mark.parametrize('rule', RULES.values(), ids=lambda rule: rule.f_backward.__name__)
def test_rule_is_proved(rule):
    table = prove_rules({rule.f: rule})
    insist(table.ok, str(table))


# ---- Wrong on purpose: each check must complain.

def test_unregistered():
    def f(x): return 2 * x
    def f_backward(grad_out, x): return 2 * grad_out
    module = SimpleNamespace(f=f, f_backward=f_backward, forward_and_backward=f)
    assert unregistered({'m': module}, {}) == ['f_backward']
    assert unregistered({'m': module}, {f: SimpleNamespace(f_backward=f)}) == ['f_backward']
    assert unregistered({'m': module}, {f: SimpleNamespace(f_backward=f_backward)}) == []


@pytest.mark.parametrize('rule', RULES.values(), ids=lambda rule: rule.f_backward.__name__)
def test_wrong_rule_is_not_proved(rule):
    def twice(grad_out, *inputs):
        return rule.f_backward(2 * grad_out, *inputs)
    wrong = replace(rule, f_backward=twice)
    assert not prove_rules({rule.f: wrong}).ok


def test_silent_witness_needs_a_reason():
    rule = next(rule for rule in RULES.values() if rule.without)
    assert not prove_rules({rule.f: replace(rule, without={})}).ok
