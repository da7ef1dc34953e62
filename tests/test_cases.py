"""What people have becomes a case: functions, Functions, modules, NumPy, several outputs; and what can't be one gets a clear word."""
import numpy as np
import pytest
import torch
from backprop_course.toolbox.cases import CannotJudge, Case, Finding, check_contract, largest, overlap
from backprop_course.toolbox.gradcheck import check_gradient


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad_out): return 2 * grad_out * ctx.saved_tensors[0]


class WrongSquare(Square):
    @staticmethod
    def backward(ctx, grad_out): return grad_out * ctx.saved_tensors[0]


X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('f', [Square, Square.apply])
def test_functions_of_ones_own(f):
    assert list(check_gradient(f, X)) == ['x']
    wrong = WrongSquare if f is Square else WrongSquare.apply
    with pytest.raises(AssertionError, match='a factor of 2 is missing'):
        check_gradient(wrong, X)


def test_a_right_rule_beside_a_wrong_backward_is_not_blamed():
    with pytest.raises(CannotJudge, match='stands alone: nudging confirms the rule'):
        check_gradient(WrongSquare.apply, lambda grad_out, x: 2 * grad_out * x, X)


def test_modules():
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.LayerNorm(5))
    assert list(check_gradient(net, X)) == ['input', '0.weight', '0.bias', '2.weight', '2.bias']
    assert net[0].weight.dtype == torch.float32
    assert list(check_gradient(torch.nn.LSTM(3, 2), X[:, None])) == ['input', 'weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0']
    with pytest.raises(TypeError, match='give the module alone'):
        check_gradient(net, lambda grad_out, inp: grad_out, X)


def test_numpy():
    x = np.random.default_rng(0).standard_normal((3, 2))
    assert list(check_gradient(lambda x: np.tanh(x), lambda grad_out, x: grad_out * (1 - np.tanh(x) ** 2), x)) == ['x']
    with pytest.raises(AssertionError, match='is the input used where the output belongs'):
        check_gradient(lambda x: np.tanh(x), lambda grad_out, x: grad_out * (1 - x ** 2), x)


def test_several_outputs():
    def both(x): return x.exp(), x.sum(0)
    def by_tuple(grad_outs, x): return grad_outs[0] * x.exp() + grad_outs[1]
    def by_parts(grad_exp, grad_sum, x): return grad_exp * x.exp() + grad_sum
    for rule in (by_tuple, by_parts):
        check_gradient(both, rule, X)
    with pytest.raises(AssertionError, match='differs from nudging'):
        check_gradient(both, lambda grad_outs, x: grad_outs[0] * x.exp(), X)


@pytest.mark.parametrize('inputs, words', [
    ((X.to(torch.cfloat), X), 'holds complex numbers'), ((X.to_sparse(), X), 'to_dense'), ((torch.ones(2, dtype=torch.long), 1), r'try .double\(\)')])
def test_inputs_that_cannot_be_nudged(inputs, words):
    with pytest.raises(TypeError, match=words):
        check_gradient(torch.mul, lambda grad_out, a, b: (grad_out * b, grad_out * a), *inputs)


def test_what_is_missing_is_told():
    checked = check_gradient(lambda x, b: x + b, lambda grad_out, x, b: (1 * grad_out, None), X, X[0])
    assert checked['b'] is None and 'returns None for b, and the loss depends on it' in repr(checked)


def test_keyword_arguments():
    def scaled(x, *, scale): return x * scale
    check_gradient(scaled, lambda grad_out, x, *, scale: grad_out * scale, X, scale=X[0])


def test_the_rest():
    assert Finding('').error is None and largest(torch.zeros(0)) == 0
    a = torch.zeros(4, 4)
    assert overlap(a[:2], a[1:]) and not overlap(a[:2], a[2:]) and not overlap(a[:, ::2], a[:, 1::2]) and not overlap(a, a.clone())
    assert 'no argument changed' in check_contract(Case(torch.exp, lambda grad_out, x: grad_out * x.exp(), (X,))).text
