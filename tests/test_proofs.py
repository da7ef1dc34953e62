"""What people hand to `prove_gradient`: right rules in many forms pass, wrong ones and bad lines don't, and no claim is too large."""
import math

import pytest
import torch
import torch.nn.functional as F
from backprop_course.backward import check_gradient, index_sums, prove_gradient, relu, relu_backward
from backprop_course.einsum import einsum, einsum_backward


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + len(shape) + sum(shape)))


def gelu(x): return 0.5 * x * (1 + (x / 2 ** 0.5).erf())


def gelu_backward(g, x):
    return g * (0.5 * (1 + (x / 2 ** 0.5).erf()) + x * (-x * x / 2).exp() / math.sqrt(2 * math.pi))


def unfolded(x, w): return w.reshape(len(w), -1) @ F.unfold(x, 3)


def unfolded_backward(g, x, w):
    spread = F.fold(w.reshape(len(w), -1).T @ g, x.shape[-2:], 3)
    return spread, (g @ F.unfold(x, 3).transpose(1, 2)).sum(0).reshape(w.shape)


def huber(x): return torch.where(x.abs() < 1, x * x / 2, x.abs() - .5)


def doubled_in_place(x):
    y = x.exp()
    y.mul_(2)
    return y


def attention(q, k, v): return ((q @ k.T) / q.shape[1] ** 0.5).softmax(-1) @ v


def attention_backward(g, q, k, v):
    root = q.shape[1] ** 0.5
    shares, back = ((q @ k.T) / root).softmax(-1), g @ v.T
    scores = shares * (back - (back * shares).sum(-1, keepdim=True)) / root
    return scores @ k, scores.T @ q, shares.T @ g


def silent(proof, witness):
    return next(one.ok for one in proof.proofs if one.witness == witness) is None


@pytest.mark.parametrize('f, rule, inputs, sympy', [
    (gelu, gelu_backward, (draw(3),), True),
    (lambda x: x / math.pi, lambda g, x: g * (1 / math.pi), (draw(3),), True),
    (attention, attention_backward, (draw(2, 2), draw(3, 2), draw(3, 2, seed=1)), True),
    (lambda x: x.split(1)[0] * x.split(1)[1], lambda g, x: torch.cat([g * x[1:], g * x[:1]]), (draw(2, 3),), True),
    (lambda x, y: x * x, lambda g, x, y: (2 * g * x, torch.zeros_like(y)), (draw(3), draw(3, seed=1)), True),
    (doubled_in_place, lambda g, x: 2 * g * x.exp(), (draw(3),), True),
    (relu, relu_backward, (draw(2, 2, 3),), True),
    (einsum, einsum_backward, ('...ik, kj -> ...ij', draw(2, 2, 3), draw(3, 2)), True),
    (lambda input_1, *input: input_1 * input[0], lambda g, a, b: (g * b, g * a), (draw(3), draw(3, seed=1)), True),
    (lambda name, case: name * case, lambda g, a, b: (g * b, g * a), (draw(3), draw(3, seed=1)), True),
    (lambda out, grad_out: out * grad_out, lambda g, a, b: (g * b, g * a), (draw(3), draw(3, seed=1)), True),
    (lambda x: x.clamp(-.5, .5), lambda g, x: g * ((x > -.5) & (x < .5)), (draw(3),), True),
    (F.hardtanh, lambda g, x: g * (x.abs() < 1), (draw(3),), True),
    (lambda x: F.leaky_relu(x, .2), lambda g, x: g * torch.where(x > 0, torch.ones_like(x), .2 * torch.ones_like(x)), (draw(3),), True),
    (huber, lambda g, x: g * torch.where(x.abs() < 1, x, x.sign()), (draw(3),), True),
    (lambda x: torch.where(x > 0, x.sqrt(), (-x).sqrt()), lambda g, x: g * x.sign() / (2 * x.abs().sqrt()), (draw(3),), True),
    (torch.cumsum, lambda g, x, dim: (g.flip(0).cumsum(0).flip(0), None), (draw(3), 0), True),
    (lambda x: x.std(0), lambda g, x: g * (x - x.mean(0)) / (x.std(0) * (len(x) - 1)), (draw(3, 2),), True),
    (unfolded, unfolded_backward, (draw(1, 1, 4, 4), draw(2, 1, 3, 3)), False),
    (torch.lgamma, lambda g, x: g * x.digamma(), (draw(3).abs() + 1,), False),
    (lambda x: torch.from_numpy(x.numpy() ** 2), lambda g, x: 2 * g * x, (draw(3),), False),
])
def test_right_rules(f, rule, inputs, sympy):
    proof = prove_gradient(f, rule, *inputs)
    assert proof.ok, proof
    assert silent(proof, 'SymPy') is not sympy, proof


def test_einsum_lines():
    "Signs, divisors, and tensors without axes."
    inputs = draw(3), draw(3, seed=1), draw()
    proof = prove_gradient(lambda x, y, s: -x * y / 2 * s, lambda g, x, y, s: (-g * y / 2 * s, -g * x / 2 * s, (-g * x * y / 2).sum()),
                           *inputs, einsum='out[i] += -x[i] * y[i] / 2 * s')
    assert proof.ok and not silent(proof, 'einsum'), proof


@pytest.mark.parametrize('f, rule, inputs', [
    (lambda x: x ** 3, lambda g, x: g * x ** 2, (draw(3, 2),)),
    (lambda x: x * x, lambda g, x: g * x / 0, (draw(3),)),
    (lambda x: x.sum(0), lambda g, x: (1 * g).expand(x.shape), (draw(2, 3),)),
    (relu, lambda g, x: [g * (x > 0)], (draw(3),)),
])
def test_wrong_rules(f, rule, inputs):
    assert not prove_gradient(f, rule, *inputs).ok


@pytest.mark.parametrize('f, rule, x', [
    (lambda x: x.clamp(-.5, .5), lambda g, x: g * (x > -.5), torch.tensor([-.7, -.2, .2])),
    (lambda x: x.clamp(-.5, .5), lambda g, x: g * ((x > -.5) & (x < .6)), torch.tensor([-.7, -.2, .2])),
    (huber, lambda g, x: g * torch.where(x.abs() < 1.1, x, x.sign()), torch.tensor([-2., .5, 3.])),
    (lambda x: x.abs(), lambda g, x: g.clone(), torch.tensor([.5, 3.])),
])
def test_wrong_where_no_number_was(f, rule, x):
    "These numbers show nothing; the regions in which letters may lie do."
    verdicts = {one.witness: one.ok for one in prove_gradient(f, rule, x).proofs}
    assert verdicts['SymPy'] is False and verdicts['nudging'] and verdicts['autograd']


seen = {}


def remembers(x):
    seen['x'] = x.clone()
    return x * x


OUTSIDE = draw(3).double()


@pytest.mark.parametrize('rule', [lambda g, x: 2 * g * seen['x'], lambda g, x: g * seen['x'] + g * x, lambda g, x: 2 * g * OUTSIDE])
def test_right_for_these_inputs_only(rule):
    with pytest.raises(AssertionError, match='not for others'):
        check_gradient(remembers, rule, OUTSIDE)


def through_a_view(a, b):
    y = a.clone()
    y.T.add_(b.T)
    return y


@pytest.mark.parametrize('f, rule, inputs, claimed', [
    (lambda a, b: a @ b, lambda g, a, b: (g @ b.T, a.T @ g), (draw(4, 3), draw(3, 2)), True),
    (lambda x, v, w: x @ v + x @ w, lambda g, x, v, w: (g @ (v + w).T, x.T @ g, x.T @ g), (draw(2, 3), draw(3, 4), draw(3, 4, seed=1)), True),
    (lambda a, b: a @ b, lambda g, a, b: (g @ b.T, a.T @ g if len(a) == 4 else 2 * (a.T @ g)), (draw(4, 3), draw(3, 2)), False),
    (lambda a, b: a @ b, lambda g, a, b: (g @ b.T, a.T @ (g if len(a) == 4 else g + g)), (draw(4, 3), draw(3, 2)), False),
    (lambda x, b: x + b, lambda g, x, b: (g.clone(), g.clone()), (draw(1, 3), draw(1, 3, seed=1)), False),
    (through_a_view, lambda g, a, b: (g.clone(), g.clone()), (draw(2, 3), draw(2, 3, seed=1)), False),
])
def test_claims_for_every_size(f, rule, inputs, claimed):
    proof = prove_gradient(f, rule, *inputs)
    assert proof.ok and any('for every size' in one.text for one in proof.proofs) is claimed, proof


@pytest.mark.parametrize('f, rule, inputs, error, words', [
    (lambda x: x.mul_(2), lambda g, x: 2 * g, (draw(3),), ValueError, 'f changed its argument'),
    (lambda x: x * torch.rand(3), lambda g, x: g, (draw(3),), ValueError, 'the same result for the same inputs'),
    (lambda x, w: x @ w, lambda g, x, w: (g @ w.T, x.T @ g), (draw(0, 3), draw(3, 2)), ValueError, 'nothing to prove'),
    (3, None, (draw(3),), TypeError, 'expected a function'),
    (relu, relu_backward, ([1.0, 2.0],), TypeError, 'expected tensors of floats'),
])
def test_bad_input(f, rule, inputs, error, words):
    with pytest.raises(error, match=words):
        prove_gradient(f, rule, *inputs)


@pytest.mark.parametrize('line, words', [
    ('x[i] += x[i]', 'is given'), ('grad_x[t] += x[i]', 'is a tensor'), ('', 'expected a line'), ('p[0] += x[i]', 'expected a line'),
    ('p[k] += x[i]', 'k walks along no axis'), ('p[i] += y[i] * x[i]', "name 'y' is not defined"), ('grad_x[i] += x[i + 1]', 'fails at'),
    ('q += i', 'fails at'), ('p[i] += x[i]; q[i] += x[i]', 'expected a line'), ('grad_x[i, j] += x[i]', 'has 1 axes')])
def test_bad_lines(line, words):
    with pytest.raises(ValueError, match=words):
        index_sums(line, x=draw(3), t=torch.tensor([0, 1, 1]))


@pytest.mark.parametrize('line', ['out[i] += x.sum() * x[i]', 'out[i] += x[i] + x[i]', 'out[i] += x[i] ** 2'])
def test_lines_that_are_no_products(line):
    with pytest.raises(ValueError, match='expected a product'):
        prove_gradient(lambda x: x * x.sum(), lambda g, x: g * x.sum() + (g * x).sum(), draw(3), einsum=line)
