"""Derivations: each step of a function as code and formula, for every rule there is."""
import backprop_course.training  # noqa: F401: its rules, and those of the lessons before it
import numpy as np
import pytest
import sympy
import torch
from backprop_course.backward import relu_backward
from backprop_course.toolbox import operations  # noqa: F401: its rules
from backprop_course.toolbox.derivations import derivation
from backprop_course.toolbox.rules import RULES, rule_for
from backprop_course.toolbox.symbols import SymbolicTensor, Unfollowed, check_numbers, letters


@pytest.mark.parametrize('rule', list(RULES.values()), ids=lambda rule: rule.name)
def test_every_rule_has_its_derivation(rule):
    for function in (rule.f, rule.f_backward):
        found = derivation(function)
        assert found.steps or function is rule.f, function
        assert all(formulas.dtype == object for _, formulas in found.steps)
        assert found._repr_markdown_().count('\n') == len(found.steps) + 1
        for result in found.result if isinstance(found.result, (tuple, list)) else [found.result]:
            if isinstance(result, SymbolicTensor):
                check_numbers(result)


def in_a_loop(x, n):
    out = x * 1
    for _ in range(n):
        out = out * x
    if n > 1:
        out += x
    out[0] = 2 * out[0]
    return out | out if n < 0 else out


def test_steps():
    g, x = letters('g', 2), letters('x', 2)
    steps = derivation(relu_backward, g, x).steps
    assert [code for code, _ in steps] == ['inp > 0', 'grad_out * (inp > 0)']
    assert steps[1][1][1] == sympy.Piecewise((g.symbols[1], x.symbols[1] > 0), (0, True))


def test_every_round_is_listed():
    found = derivation(in_a_loop, letters('x', 1), n=2)
    x = letters('x', 1).symbols[0]
    codes = [code for code, _ in found.steps]
    assert codes.count('out = out * x') == 2 and codes.count('out += x') == 1
    assert dict(found.steps)['out += x'][0] == x ** 3 + x and found.result.symbols[0] == 2 * (x ** 3 + x)
    assert '|' not in found._repr_markdown_().replace(' | ', '').replace('| ', '').replace(' |', '').replace('|:--|:--|', '')


def test_the_function_is_run_as_it_is():
    "Its defaults, what it has from around it, annotations, decorators and inner functions."
    kept = 3

    @rule_for(torch.exp)
    def inner(x: 'unknown', *, scale: torch.Tensor = 2., shift=(1, 2)) -> 'nothing':
        def half(y, by=shift[1]): return y / by
        return half(kept * x * scale)

    found = derivation(inner, letters('x'))
    assert found.result.symbols[()] == 3 * letters('x').symbols[()]
    assert [code for code, _ in found.steps] == ['kept * x', 'kept * x * scale', 'y / by', 'half(kept * x * scale)']
    del RULES[torch.exp]


def test_several_results_are_listed_one_by_one():
    def parts(x): return x.split(1)
    assert [code for code, _ in derivation(parts, letters('x', 2)).steps] == ['(x.split(1))[0]', '(x.split(1))[1]']


def wants_a_value(x): return x if x > 0 else 0 * x


@pytest.mark.parametrize('error, words, inputs', [
    (Unfollowed, 'takes a number out', (wants_a_value, letters('x'))),
    (ValueError, 'expects letters', (wants_a_value, torch.ones(2))),
    (ValueError, 'expects letters', (wants_a_value, np.ones(2))),
    (LookupError, 'part of no rule', (wants_a_value,)),
    (TypeError, 'has a name, got a lambda', (lambda x: x, letters('x'))),
    (TypeError, 'written in Python', (torch.exp, letters('x'))),
    (TypeError, 'written in Python', (3, letters('x'))),
])
def test_what_has_no_derivation(error, words, inputs):
    with pytest.raises(error, match=words):
        derivation(*inputs)


def test_a_function_without_source():
    namespace = {}
    exec('def typed(x): return 2 * x', namespace)
    with pytest.raises(ValueError, match='source of typed is not to be found'):
        derivation(namespace['typed'], letters('x'))
