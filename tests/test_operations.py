"""The eighteen operations: values and gradients are torch's, in float64, for shapes that Hypothesis writes; and the places where formulas meet 0, ties and nothing at all. (That the rules are proved: test_proofs.)"""
from dataclasses import replace

import pytest
import torch
from backprop_course.toolbox import operations
from backprop_course.toolbox.operations import cat, cat_backward, max_over, power, power_backward, sum_over, take
from backprop_course.toolbox.rules import RULES, find_rule
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, SHAPES, members, tensors, usually
from torch.testing import assert_close

NAMES = [name for name in operations.__all__ if not name.endswith('_backward') and name.islower()]


def check(f, inputs, expected, seed=0, **options):
    "`f` gives what `expected` gives, and its rule what autograd gives for `expected`; in new memory, and nothing is changed."
    before = [x.clone() if isinstance(x, torch.Tensor) else x for x in inputs]
    floats = [place for place, x in enumerate(inputs) if isinstance(x, torch.Tensor) and x.is_floating_point()]
    leaves = [x.detach().requires_grad_() if place in floats else x for place, x in enumerate(inputs)]
    wanted = expected(*leaves)
    out = f(*inputs, **options)
    assert_close(out, wanted.detach(), equal_nan=True)
    grad_out, = tensors([tuple(out.shape)], seed)
    grads = find_rule(f).f_backward(grad_out, *inputs, **options)
    grads = grads if isinstance(grads, tuple) else (grads,)
    grads += (None,) * (len(inputs) - len(grads))  # axes, shapes and other arguments of a single tensor
    by_autograd = torch.autograd.grad(wanted, [leaves[place] for place in floats], grad_out)
    for place, grad in zip(floats, by_autograd, strict=True):
        assert_close(grads[place], grad, equal_nan=True)
    assert all(grads[place] is None for place in range(len(inputs)) if place not in floats)
    memory = [x.untyped_storage().data_ptr() for x in (grad_out, *inputs, *grads) if isinstance(x, torch.Tensor) and x.numel()]
    assert len({*memory}) == len(memory)
    assert all(torch.equal(x, old) if isinstance(x, torch.Tensor) else x == old for x, old in zip(inputs, before, strict=True))


def test_eighteen():
    assert len(NAMES) == 18 and all(find_rule(getattr(operations, name)).name == f'{name}_backward' for name in NAMES)


# ---- Two operands.

TWO = {'add': lambda a, b: a + b, 'subtract': lambda a, b: a - b, 'multiply': lambda a, b: a * b, 'divide': lambda a, b: a / b}


@st.composite
def operands(draw):
    "Two tensors that stretch together, or a tensor and a number; the second has no 0."
    whole = draw(SHAPES)
    shapes = [tuple(1 if size != full else size for size, full in zip(shape, whole[len(whole) - len(shape):]))
              for shape in (draw(members(whole)), draw(members(whole)))]
    a, b = tensors(shapes, draw(SEEDS))
    b = b.sign() * (0.5 + b.abs())
    if usually(draw, 30):
        return (a, draw(st.sampled_from([2, -0.5]))) if draw(st.booleans()) else (draw(st.sampled_from([3, 0.25])), b)
    return a, b


@given(st.sampled_from([*TWO]), operands(), SEEDS)
def test_arithmetic(name, inputs, seed):
    check(getattr(operations, name), inputs, TWO[name], seed)


@given(operands(), SEEDS)
def test_power(inputs, seed):
    a, b = inputs
    a = a.abs() + 0.1 if isinstance(a, torch.Tensor) else a
    check(power, (a, b), lambda a, b: a ** b, seed)


@pytest.mark.parametrize('other', [3, -0.5, torch.tensor(2.0, dtype=torch.float64)])
@pytest.mark.parametrize('name', TWO)
def test_one_tensor_as_both_operands(name, other):
    x = torch.tensor([1.0, -2.0], dtype=torch.float64)
    check(getattr(operations, name), (x, x.clone()), TWO[name])
    check(getattr(operations, name), (x, other), TWO[name])


@pytest.mark.parametrize('values', [torch.tensor([2, 3]), torch.tensor([True, False])])
@pytest.mark.parametrize('name', ['add', 'multiply'])
def test_what_has_no_slope(name, values):
    x = torch.tensor([1.0, -2.0], dtype=torch.float64)
    check(getattr(operations, name), (x, values), TWO[name])
    check(getattr(operations, name), (values, x), TWO[name])


BASES = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
EXPONENTS = torch.tensor([0.0, 0.5, 1.0, 2.0, -1.0, 0.0, -1.0, 2.0], dtype=torch.float64)


def test_powers_at_0():
    "0 * log 0 is no number, and the slopes there are 0, or infinite, as torch says."
    leaves = [x.clone().requires_grad_() for x in (BASES, EXPONENTS)]
    expected = torch.autograd.grad((leaves[0] ** leaves[1]).sum(), leaves)
    for grad, wanted in zip(power_backward(torch.ones_like(BASES), BASES, EXPONENTS), expected, strict=True):
        assert_close(grad, wanted)
    for exponent in (0, 1, 2, 0.5, -1):
        leaf = BASES.clone().requires_grad_()
        expected, = torch.autograd.grad((leaf ** exponent).sum(), leaf)
        assert_close(power_backward(torch.ones_like(BASES), BASES, exponent)[0], expected)
    for base in (0, 2.0):
        leaf = EXPONENTS.clone().requires_grad_()
        expected, = torch.autograd.grad((base ** leaf).sum(), leaf)
        assert_close(power_backward(torch.ones_like(BASES), base, EXPONENTS)[1], expected)


def test_power_of_a_negative_number():
    x = torch.tensor([-2.0, -3.0], dtype=torch.float64)
    check(power, (x, 3), lambda a, b: a ** b)
    assert power(x, 0.5).isnan().all()


@st.composite
def factors(draw):
    "Two tensors for a matrix product: vectors, matrices, and leading axes that stretch."
    n, k, m = (draw(st.integers(0, 3)) for _ in range(3))
    batch = draw(st.lists(st.integers(0, 2), max_size=2).map(tuple))
    def leading(): return tuple(1 if usually(draw, 40) else size for size in batch[draw(st.integers(0, len(batch))):])
    left = (k,) if usually(draw, 25) else (*leading(), n, k)
    right = (k,) if usually(draw, 25) else (*leading(), k, m)
    return tensors([left, right], draw(SEEDS))


@given(factors(), SEEDS)
def test_matmul(inputs, seed):
    check(operations.matmul, inputs, torch.matmul, seed)


# ---- Curves.

CURVES = {'exp': torch.exp, 'log': torch.log, 'tanh': torch.tanh, 'sigmoid': torch.sigmoid, 'relu': torch.relu}


@given(st.sampled_from([*CURVES]), SHAPES, SEEDS)
def test_curves(name, shape, seed):
    inp, = tensors([shape], seed)
    check(getattr(operations, name), (inp.abs() + 0.1 if name == 'log' else inp,), CURVES[name], seed)


@pytest.mark.parametrize('name', CURVES)
def test_curves_far_out(name):
    inp = torch.tensor([-800.0, -40.0, 0.0, 40.0, 600.0], dtype=torch.float64)
    check(getattr(operations, name), (inp.clamp_min(1e-300) if name == 'log' else inp,), CURVES[name])


# ---- Over axes.

def axes_of(draw, inp):
    "One axis, several, none at all; each counted from the front or from the back."
    if not inp.ndim or usually(draw, 20):
        return draw(st.sampled_from([None, ()]))
    chosen = draw(st.lists(st.integers(0, inp.ndim - 1), min_size=1, max_size=inp.ndim, unique=True))
    chosen = [axis - inp.ndim if draw(st.booleans()) else axis for axis in chosen]
    return chosen[0] if len(chosen) == 1 and draw(st.booleans()) else draw(st.sampled_from([tuple, list]))(chosen)


OVER = {'sum_over': torch.Tensor.sum, 'mean_over': torch.Tensor.mean, 'max_over': torch.Tensor.amax}


def all_axes(inp, dim):
    return tuple(range(inp.ndim)) if dim in (None, (), []) else dim


@given(st.sampled_from([*OVER]), st.data(), SHAPES, SEEDS)
def test_over_axes(name, data, shape, seed):
    if name == 'max_over':
        shape = tuple(size or 2 for size in shape)  # of nothing there is no largest
    inp, = tensors([shape], seed)
    inp = inp.round() if data.draw(st.booleans(), 'with ties') else inp
    dim, keepdim = data.draw(st.composite(axes_of)(inp), 'dim'), data.draw(st.booleans(), 'keepdim')
    check(getattr(operations, name), (inp, dim, keepdim), lambda inp, *_: OVER[name](inp, all_axes(inp, dim), keepdim=keepdim), seed)


def test_ties_share():
    inp = torch.tensor([[2.0, 2.0, 1.0], [3.0, 3.0, 3.0]], dtype=torch.float64)
    grad = find_rule(max_over).f_backward(torch.tensor([1.0, 1.0], dtype=torch.float64), inp, 1)
    assert_close(grad, torch.tensor([[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64))


def test_of_nothing():
    empty = torch.ones(2, 0)
    assert sum_over(empty, 1).tolist() == [0, 0] and operations.mean_over(empty, 1).isnan().all()
    for name in ('sum_over', 'mean_over'):
        assert find_rule(getattr(operations, name)).f_backward(torch.ones(2), empty, 1).shape == (2, 0)
    with pytest.raises((RuntimeError, IndexError)):
        max_over(empty, 1)


def test_axes_may_be_numbers_of_numpy_and_torch():
    import numpy as np
    inp = torch.arange(6.0).view(2, 3)
    for dim in (np.int64(1), torch.tensor(1), (np.int64(1),)):
        assert_close(sum_over(inp, dim), inp.sum(1))
    for dim in (0.5, 'row', (0, 1.0)):
        with pytest.raises(TypeError):
            sum_over(inp, dim)
    for dim in (2, -3):
        with pytest.raises(IndexError):
            sum_over(inp, dim)


# ---- What moves numbers about.

@given(SHAPES, st.data(), SEEDS)
def test_reshape_and_transpose(shape, data, seed):
    inp, = tensors([shape], seed)
    new = data.draw(st.permutations(shape), 'new shape')
    check(operations.reshape, (inp, tuple(new)), lambda inp, new: inp.reshape(new), seed)
    if inp.numel():
        check(operations.reshape, (inp, (-1,)), lambda inp, new: inp.reshape(new), seed)
    if inp.ndim:
        axes = [data.draw(st.integers(-inp.ndim, inp.ndim - 1)) for _ in range(2)]
        check(operations.transpose, (inp, *axes), lambda inp, *axes: inp.transpose(*axes), seed)


@given(SHAPES.filter(len), st.data(), SEEDS)
def test_cat(shape, data, seed):
    dim = data.draw(st.integers(-len(shape), len(shape) - 1), 'dim')
    shapes = []
    for size in data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4), 'sizes'):
        shapes.append([*shape])
        shapes[-1][dim] = size
    check(cat, tensors([tuple(one) for one in shapes], seed), lambda *inputs: torch.cat(inputs, dim), seed, dim=dim)


def test_one_input_has_one_gradient():
    assert torch.equal(cat_backward(torch.ones(2), torch.zeros(2)), torch.ones(2))
    assert [len(cat_backward(torch.ones(n), *torch.zeros(n, 1))) for n in (2, 3)] == [2, 3]


@given(SHAPES, SHAPES, st.data(), SEEDS)
def test_take(shape, at, data, seed):
    inp, = tensors([tuple(size or 1 for size in shape)], seed)
    count = torch.zeros(at).numel()
    places = data.draw(st.lists(st.integers(-inp.numel(), inp.numel() - 1), min_size=count, max_size=count), 'places')
    check(take, (inp, torch.tensor(places, dtype=torch.long).view(at)), torch.take, seed)


def test_a_place_read_twice_gets_both():
    grad, none = find_rule(take).f_backward(torch.tensor([1.0, 10.0, 100.0]), torch.zeros(2, 2), torch.tensor([3, 0, 3]))
    assert none is None and grad.tolist() == [[10, 0], [0, 101]]


@pytest.mark.parametrize('call, error, words', [
    (lambda: cat(torch.ones(2, 3), torch.ones(3)), ValueError, r'cat expects inputs with equally many axes, got \(2, 3\) and \(3,\); try \[None\]'),
    (lambda: cat(torch.ones(2), torch.ones(2), torch.ones(())), ValueError, r'got \(2,\) and \(2,\) and \(\)'),
    (lambda: cat(torch.ones(2, 3), torch.ones(2, 2)), RuntimeError, 'Sizes of tensors must match'),
    (lambda: operations.add(torch.ones(2), torch.ones(3)), RuntimeError, 'must match'),
    (lambda: operations.reshape(torch.ones(2, 3), (4,)), RuntimeError, 'shape'),
    (lambda: take(torch.ones(2), torch.tensor([2])), IndexError, 'out of range'),
])
def test_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


# ---- Wrong on purpose: `check` must complain.

@pytest.mark.parametrize('wrong', [
    lambda grad_out, inp: 2 * grad_out * inp.exp(), lambda grad_out, inp: grad_out * inp, lambda grad_out, inp: grad_out.mul_(inp.exp()),
    lambda grad_out, inp: None, lambda grad_out, inp: (grad_out * inp.exp()).sum(0)])
def test_a_wrong_rule_is_found(monkeypatch, wrong):
    monkeypatch.setitem(RULES, operations.exp, replace(RULES[operations.exp], f_backward=wrong))
    with pytest.raises(AssertionError):
        check(operations.exp, tensors([(2, 3)], 1), torch.exp)
