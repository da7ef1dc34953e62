"""Letters: each operation that they follow says what torch computes; what they can't follow is refused; and what SymPy calls 0 is 0."""
import math

import pytest
import sympy
import torch
import torch.nn.functional as F
from backprop_course.toolbox import symbols
from backprop_course.toolbox.symbols import Letters, SymbolicTensor, Unfollowed, as_number, as_symbols, check_numbers, exact, is_zero, letters, value_at
from hypothesis import given
from hypothesis import strategies as st


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- following

FUNCTIONS = {
    # entry by entry
    'arithmetic': lambda x, y: (x + y) * x - y / (x.abs() + 1) + 2 - (-x) + (3 - x) / 2 + 1 / (y * y + 1),
    'alpha': lambda x, y: torch.add(x, y, alpha=3) - torch.sub(x, y, alpha=2) + torch.rsub(x, y, alpha=.5),
    'powers': lambda x, y: x ** 3 + x.square() + (x * x + 1) ** 0.5 + (x * x + 1).rsqrt() + (y * y + 1).sqrt() + (x * x + 1).reciprocal(),
    'exponentials': lambda x, y: x.exp() + (y * y + 1).log() + x.expm1() + (x * x).log1p() + torch.logaddexp(x, y),
    'trigonometric': lambda x, y: x.sin() + y.cos() + x.sinh() + y.cosh() + x.tanh() + x.atan() + x.erf(),
    'activations': lambda x, y: x.sigmoid() + F.silu(y) + F.softplus(x) + F.leaky_relu(y, .2) + x.relu() + F.hardtanh(x, -.5, .5),
    'more activations': lambda x, y: F.elu(x) + F.gelu(y) + F.hardswish(x) + F.logsigmoid(y) + F.mish(x) + F.relu6(5 * y),
    'choices': lambda x, y: x.abs() + y.sign() + torch.maximum(x, y) - torch.minimum(x, y) + x.clamp(-.3, .4) + x.clamp_min(.1) + y.clamp_max(.2),
    'comparisons': lambda x, y: x * (x > y) + y * (x >= 0) + x * (y < .5) + y * (y <= x) + x * (x == y) + y * (x != y),
    'logic': lambda x, y: x * ((x > 0) & (y > 0)) + y * ((x > 0) | (y > 0)) + x * ~(x > y) + x * torch.logical_and(x > 0, y < 0),
    'where': lambda x, y: torch.where(x > y, x, y * y) + x.masked_fill(x > 0, 2.) + x.isnan() * y,
    # along axes
    'sums': lambda x, y: x.sum() + x.sum(0) + y.sum(1, keepdim=True) + x.mean() + x.mean((0, 1)) + x.mean(1, keepdim=True),
    'counts': lambda x, y: (x > 0).sum() * y,
    'spread': lambda x, y: x.var() + x.std(0) + x.var(1, correction=0, keepdim=True),
    'products': lambda x, y: x.prod() + x.cumsum(1) + y.cumprod(0) + x.prod(1, keepdim=True),
    'norms': lambda x, y: x.norm() + torch.linalg.vector_norm(x, dim=1, keepdim=True) + F.normalize(x),
    'softmaxes': lambda x, y: x.softmax(1) + y.log_softmax(0) + x.logsumexp(1, keepdim=True),
    'largest': lambda x, y: x.amax(1, keepdim=True) + y.amin() + x.max() + x.max(1).values[:, None] + x.sort(1).values + x.topk(3, 1).values,
    'losses': lambda x, y: F.mse_loss(x, y) + F.cross_entropy(x, torch.tensor([0, 2])) + F.huber_loss(x, y) + F.binary_cross_entropy_with_logits(x, y.sigmoid()),
    'layer norm': lambda x, y: F.layer_norm(x, (3,), y[0], y[1]),
    # products of matrices
    'matrices': lambda x, y: x @ y.T @ x + torch.mm(x.t(), y)[:2] + torch.einsum('ij,kj->ik', x, y) @ x + torch.outer(x[0], y[0])[:2],
    'vectors': lambda x, y: x @ y[0] + x[0].dot(y[0]) + torch.addmm(x, x[:, :2], y, beta=2, alpha=.5).sum() + torch.bmm(x[None], y.T[None]).sum(),
    'linear': lambda x, y: F.linear(x, y, y[:, 0]),
    # moves
    'views': lambda x, y: x.reshape(3, 2).T + y.view(-1).unflatten(0, (2, 3)) + x.unsqueeze(0).squeeze(0).expand(2, 3) + y.permute(1, 0).flatten().view(2, 3),
    'indices': lambda x, y: x[[1, 0]] + y[:, torch.tensor([2, 0, 1])] + x[0] + x[1, 2] + y[..., 1:2] + x.index_select(0, torch.tensor([1, 1])),
    'gathers': lambda x, y: x.gather(1, torch.tensor([[0], [2]])) + torch.take(y, torch.tensor([0, 5])).sum() + torch.take_along_dim(x, torch.tensor([[1], [0]]), 1),
    'moves': lambda x, y: x.flip(1) + y.roll(1, 0) + x.repeat(2, 1)[:2] + torch.cat([x[:1], y[:1]]) + torch.stack([x[0], y[0]]) + sum(x.unbind(0)),
    'triangles': lambda x, y: x.tril() + y.triu() + x.diagonal().sum() + torch.diag_embed(x[0])[:2] + F.pad(x, (1, 0))[:, :3],
    'parts': lambda x, y: torch.cat(x.split([1, 2], 1), 1) + torch.cat(torch.chunk(y, 2)) + x.movedim(0, 1).T,
    'windows': lambda x, y: F.unfold(x[None, None], (2, 2)).sum() + x.unfold(1, 2, 1).sum(-1).mean(),
    'convolution': lambda x, y: F.conv2d(x[None, None], y[None, None, :, :2], y[0, :1]),
    'pooling': lambda x, y: F.max_pool2d(x[None, None], (1, 2)),
    'embedding': lambda x, y: F.embedding(torch.tensor([1, 1, 0]), x).sum(0) + y,
    # writing
    'in place': lambda x, y: x.clone().mul_(2).add_(y).sub_(1).div_(3).clamp_(-1, 1),
    'copies': lambda x, y: torch.zeros_like(x).copy_(y) + x.clone().fill_(2) + torch.ones_like(x) * x.new_zeros(2, 3).add_(x),
    'entries': lambda x, y: entries_written(x, y),
    'places that letters decide': lambda x, y: x[y > 0].sum() + torch.tensor([1., 2.])[(x > 0).long()] + x.gather(1, (y > 0).long()) + masked(x, y),
    'scatter': lambda x, y: scattered(x, y),
    'kinds': lambda x, y: x.float().double() + (x > 0).to(x.dtype) + x.detach() + x.contiguous(),
}


def entries_written(x, y):
    out = x.clone()
    out[0] = y[1]
    out[1, 2] += x[0, 0]
    out.T.mul_(2)
    out[y > 0] = 1
    return out


def masked(x, y):
    out = x.clone()
    out[y > 0] = out[y > 0] * 2
    out[x[:, 0] > 1] = 3
    return out


def scattered(x, y):
    at = torch.tensor([[0, 0, 1], [2, 0, 1]])
    out = torch.zeros_like(x).scatter_add(1, at, y) + torch.zeros_like(x).index_add(1, torch.tensor([0, 0, 2]), x)
    return out + torch.zeros_like(x).index_put((torch.tensor([0, 0]),), y, accumulate=True) + x.scatter(1, at[:, :1], y[:, :1])


@pytest.mark.parametrize('name', FUNCTIONS)
def test_letters_follow_torch(name):
    "The expressions, at the numbers that the letters stand for, are what torch computes there; for the numbers themselves, too."
    x, y = draw(2, 3), draw(2, 3, seed=1)
    make = Letters()
    got, expected = FUNCTIONS[name](make('x', x), make('y', y)), FUNCTIONS[name](x.clone(), y.clone())
    assert isinstance(got, SymbolicTensor) and got.shape == expected.shape and torch.allclose(got.numbers, expected, rtol=1e-9)
    check_numbers(got)


def test_the_check_notices_a_wrong_expression(monkeypatch):
    monkeypatch.setitem(symbols._operations(), 'exp', symbols._operations()['cosh'])
    with pytest.raises(AssertionError, match='the letters give'):
        check_numbers(letters('x', 2).exp())
    with pytest.raises(Unfollowed, match='lost its letters'):
        check_numbers(torch.ones(2))


@pytest.mark.filterwarnings('ignore:var')
@pytest.mark.parametrize('function, words', [
    (lambda x: x if x.sum() > 0 else 2 * x, 'takes a number out'),
    (lambda x: x * x[0, 0].item(), 'takes a number out'),
    (lambda x: torch.linalg.inv(x[:, :2]), 'cannot follow the operation'),
    (lambda x: torch.zeros(2, 3).copy_(x), 'writes letters into a tensor without'),
    (lambda x: x[:0].mean(), 'the mean of nothing'),
    (lambda x: x[0, 0].var(), 'the variance of a single number'),
    (lambda x: torch.linalg.vector_norm(x, 3), 'norm of the order 3'),
    (lambda x: F.conv1d(x[None], x[None]), 'no other convolution'),
])
def test_what_letters_cannot_follow(function, words):
    with pytest.raises(Unfollowed, match=words):
        function(Letters()('x', draw(2, 3)))


def test_expressions_do_not_grow_for_ever():
    x = Letters()('x', draw(1))
    with pytest.raises(Unfollowed, match='grows beyond'):
        for _ in range(40):
            x = x * x + x.exp() * x


def test_views_share_their_letters():
    x = letters('x', 2, 2)
    row = x[0]
    row.mul_(2)
    assert str(x.symbols.tolist()) == '[[2*x[0, 0], 2*x[0, 1]], [x[1, 0], x[1, 1]]]'


def test_choices_are_noted():
    make = Letters()
    x = make('x', torch.tensor([[1., 3., 2.]]))
    assert str(x.amax(1).symbols.tolist()) == '[x[0, 1]]' and make.assumed == ['the largest entries stay the largest']
    make = Letters(decide=False)
    assert str(make('x', torch.ones(2)).amax().symbols) == 'Max(x[0], x[1])' and not make.assumed


def test_a_mask_becomes_cases():
    x = letters('x', 2)
    out = torch.zeros_like(x)
    out[x > 0] = 1.
    assert str(out.symbols[0]) == 'Piecewise((1, x[0] > 0), (0, True))'
    with pytest.raises(Unfollowed, match='letters decide which places'):
        x[x > 0]


def test_letters():
    assert len(set(letters('x', 12, 12).symbols.flat)) == 144 and letters('x').symbols[()].is_real
    assert str(letters('x').symbols[()]) == 'x' and (letters('x', 5).numbers > 0).all()
    both = letters('x', 2) * letters('y', 2)  # of two calls
    check_numbers(both)
    with pytest.raises(TypeError, match="try letters\\('x', 2, 3\\)"):
        letters('x', (2, 3))


# ---- exact numbers

@given(st.fractions(max_denominator=1000, min_value=-1000, max_value=1000))
def test_fractions_come_back(fraction):
    assert exact(float(fraction)) == sympy.Rational(fraction.numerator, fraction.denominator)


def test_exact():
    assert exact(2 / math.pi) == 2 / sympy.pi and exact(math.sqrt(3) / 2) == sympy.sqrt(3) / 2
    assert exact(True) is sympy.true and exact(math.inf) == sympy.oo and exact(0.1 + 0.2) == sympy.Rational(3, 10)
    assert as_symbols(torch.tensor([True])).tolist() == [sympy.true] and as_symbols(0.5)[()] == sympy.Rational(1, 2)
    x = sympy.Symbol('x', real=True)
    assert as_number(x) is x and as_number(x > 0).subs(x, 2) == 1 and as_number(x > 0).subs(x, -2) == 0
    assert value_at(x > 0, {x: 1.}) == 1


# ---- is_zero

x, y, z = sympy.symbols('x y z', real=True)
STEP = sympy.Piecewise((1, x > 0), (0, True))


@pytest.mark.parametrize('expression, values', [
    ((x + y) ** 3 - x ** 3 - 3 * x ** 2 * y - 3 * x * y ** 2 - y ** 3, {}),
    (sympy.tanh(x) - (sympy.exp(2 * x) - 1) / (sympy.exp(2 * x) + 1), {}),
    (1 / (1 + sympy.exp(-x)) - sympy.exp(x) / (1 + sympy.exp(x)), {}),
    (sympy.sqrt(x ** 2 + 1) ** 2 - x ** 2 - 1, {}),
    (STEP * STEP - STEP, {}),
    (sympy.Piecewise((x, x > 0), (-x, True)) - x * STEP + x * (1 - STEP), {}),
    (sympy.exp(x) / (sympy.exp(x) + sympy.exp(y)) - 1 / (1 + sympy.exp(y - x)), {x: 0., y: 0.}),
])
def test_zero(expression, values):
    assert is_zero(expression, values)


@pytest.mark.parametrize('expression, values', [
    (x ** 2 - y ** 2, {x: 1., y: 1.}),  # 0 at the values themselves
    (x * y, {x: 0., y: 2.}),
    (STEP - sympy.Rational(1, 2), {}),
    (x * STEP, {x: -1.}),  # 0 on the side where the value lies
    (sympy.Piecewise((1, x > 100), (0, True)), {x: 1.}),
    (sympy.Rational(1, 10 ** 9) * x, {}),
])
def test_not_zero(expression, values):
    assert not is_zero(expression, values)


def test_what_cannot_be_decided_is_said(monkeypatch):
    with pytest.raises(Unfollowed, match='did not bring'):
        is_zero(sympy.sqrt(x ** 2) - x)  # 0 for all numbers that were tried
    in_regions = sum(sympy.Piecewise((sympy.sin(one) ** 2 + sympy.cos(one) ** 2 - 1, one > other), (0, True)) for one, other in ((x, y), (y, z), (z, x)))
    assert is_zero(in_regions)
    monkeypatch.setattr(symbols, '_MOST_REGIONS', 3)
    with pytest.raises(Unfollowed, match='regions'):
        is_zero(in_regions)
    monkeypatch.setattr(symbols, '_MOST_IN_A_CELL', 10)
    with pytest.raises(Unfollowed, match='not asked'):
        is_zero(in_regions)
