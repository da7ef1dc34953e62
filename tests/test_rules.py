"""A rule is said once, beside its function, and found from there; what can't be a rule is refused at once. Every rule of the package is registered."""
from types import SimpleNamespace

import pytest
import torch
from backprop_course.toolbox import rules
from backprop_course.toolbox.rules import RULES, WITNESSES, Rule, find_rule, rule_for
from checkout import insist
from package import import_all


@pytest.fixture(autouse=True)
def registered_as_before():
    "What a test registers is forgotten after it."
    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)


def double(inp):
    return 2 * inp


def one_input(normal):
    return [(normal(2, 3),)]


def test_said_once_and_found():
    @rule_for(double, examples=one_input, indices='grad_inp[i, j] += 2 * grad_out[i, j]', without={'einsum': 'too easy'}, options={'scale': 3})
    def double_backward(grad_out, inp):
        return 2 * grad_out

    rule = find_rule(double)
    assert torch.equal(double_backward(torch.ones(2), torch.ones(2)), torch.full((2,), 2.0))  # the decorator leaves it as it is
    assert rule is RULES[double] and rule.f is double and rule.f_backward is double_backward and rule.name == 'double_backward'
    assert rule.examples is one_input and rule.without == {'einsum': 'too easy'} and rule.options == {'scale': 3}


def test_said_again():
    "A cell that is run again defines its function anew; the new rule takes the place of the old."
    def cell():
        scope = {'__name__': 'lesson', 'rule_for': rule_for}
        exec('def half(inp): return inp / 2\n@rule_for(half)\ndef half_backward(grad_out, inp): return grad_out / 2', scope)
        return scope['half'], scope['half_backward']
    old, _ = cell()
    new, new_backward = cell()
    assert old not in RULES and find_rule(new).f_backward is new_backward


def test_functions_of_one_name_are_kept_apart():
    "Lambdas, and functions made inside others, come from one line and are different functions."
    def made(factor):
        def times(inp):
            return factor * inp
        rule_for(times)(lambda grad_out, inp: factor * grad_out)
        return times
    two, three = made(2), made(3)
    assert find_rule(two).f is two and find_rule(three).f is three
    rule_for(one := lambda inp: inp + 1)(torch.clone)
    rule_for(other := lambda inp: inp + 2)(torch.clone)
    assert find_rule(one).f is one and find_rule(other).f is other


@pytest.mark.parametrize('f', [torch.floor, double, 3, None, [double]])
def test_no_rule(f):
    with pytest.raises(LookupError, match=r'has no rule; write one as @rule_for\((floor|double|int|NoneType|list)\) above def .*_backward\(grad_out'):
        find_rule(f)


@pytest.mark.parametrize('told, error, words', [
    ((3,), TypeError, 'a function for f, got int'),
    ((None,), TypeError, 'a function for f, got NoneType'),
    ((double, {'examples': [(torch.ones(2),)]}), TypeError, 'a function for examples, got list'),
    ((double, {'without': {'pen': 'no paper'}}), ValueError, f'names of witnesses, {", ".join(WITNESSES)}, or NumPy; got pen'),
    ((double, {'without': {'sympy': '', 'nudges': ''}}), ValueError, 'got nudges, sympy'),
])
def test_refused(told, error, words):
    f, options = (*told, {})[:2]
    with pytest.raises(error, match=words):
        rule_for(f, **options)


def test_options_are_named():
    "A misspelt option is no option, and none goes by its place."
    with pytest.raises(TypeError, match='example'):
        rule_for(double, example=one_input)
    with pytest.raises(TypeError):
        rule_for(double, one_input)


def test_refused_below():
    with pytest.raises(TypeError, match='expects a function below it, got int'):
        rule_for(double)(3)
    assert double not in RULES


# ---- What a rule knows of itself.

def test_examples_are_the_same_each_time():
    rule = Rule(double, double, lambda normal: [(normal(2, 3), 'ij'), (normal(),)])
    (first, text), (number,) = rule.draw()
    assert first.shape == (2, 3) and first.dtype == number.dtype == torch.float64 and number.shape == () and text == 'ij'
    assert torch.equal(first, rule.draw()[0][0])
    torch.manual_seed(1)
    torch.randn(5)
    assert torch.equal(first, rule.draw()[0][0])  # whatever others draw


@pytest.mark.parametrize('examples, error, words', [
    (None, ValueError, r'double has no examples; give some with rule_for\(..., examples='),
    (lambda normal: [], TypeError, r'examples of double are expected to be tuples of inputs, such as \[\(normal\(5, 4\),\)\], got none'),
    (lambda normal: [normal(2)], TypeError, 'got Tensor'),
    (lambda normal: (normal(2), normal(3)), TypeError, 'got Tensor, Tensor'),
])
def test_bad_examples(examples, error, words):
    with pytest.raises(error, match=words):
        Rule(double, double, examples).draw()


@pytest.mark.parametrize('stated, lines', [
    ((), []), ('a', ['a']), (['a', 'b'], ['a', 'b']), (('a',), ['a']), (lambda inp: 'a' if inp else [], []), (lambda inp: ('a', 'b'), ['a', 'b'])])
def test_lines(stated, lines):
    assert Rule(double, double, indices=stated).lines('indices', 0) == Rule(double, double, einsum=stated).lines('einsum', 0) == lines


def test_name_of_what_has_none():
    class Backward:
        def __call__(self, grad_out, inp): return grad_out
        def __str__(self): return 'a backward function'
    assert Rule(double, Backward()).name == 'a backward function'


def test_in_pytest_one_sees_ones_own_line(pytester_run):
    said = pytester_run('from backprop_course.toolbox.rules import find_rule, rule_for\n'
                        'def test_found(): find_rule(3)\n'
                        'def test_said(): rule_for(3)\n'
                        'def test_below(): rule_for(abs)(3)\n')
    assert 'rules.py' not in said and '3 failed' in said and 'rule_for(abs)(3)' in said


# ---- Every public rule of the package, a function called f_backward beside a function f, is registered.

def unregistered(modules, rules):
    "The public rules that are not on the list `rules`."
    pairs = [(name, getattr(module, stem), function) for module in modules.values() for name, function in vars(module).items()
             if not name.startswith('_') and (stem := name.removesuffix('_backward')) != name and callable(getattr(module, stem, None))]
    return sorted({name for name, f, rule in pairs if f not in rules or rules[f].f_backward is not rule})


def test_every_rule_is_registered():
    names = unregistered(import_all(), RULES)
    insist(not names, f'{", ".join(names)}: write @rule_for(...) above')


def test_unregistered():
    def f(x): return 2 * x
    def f_backward(grad_out, x): return 2 * grad_out
    module = SimpleNamespace(f=f, f_backward=f_backward, forward_and_backward=f)
    assert unregistered({'m': module}, {}) == ['f_backward']
    assert unregistered({'m': module}, {f: SimpleNamespace(f_backward=f)}) == ['f_backward']
    assert unregistered({'m': module}, {f: SimpleNamespace(f_backward=f_backward)}) == []


def test_the_witnesses_are_those_that_speak():
    from backprop_course.toolbox.proofs import prove_gradient
    proof = prove_gradient(double, lambda grad_out, inp: 2 * grad_out, torch.ones(2))
    assert {one.witness for one in proof.statements} == {'contract', *rules.WITNESSES}
