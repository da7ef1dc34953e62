"""Each kind of mistake, made as people make it, gets the words for it; and what is no usual mistake gets none."""
import math

import pytest
import torch
from backprop_course.toolbox.cases import Case
from backprop_course.toolbox.diagnosis import explain, find_causes

F = torch.nn.functional
generator = torch.Generator().manual_seed(3)


def draw(*shape):
    return torch.randn(shape, generator=generator)


def batch_norm(x): return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()


def parts(x, **options):
    root = (x.var(0, **options) + 1e-5).sqrt()
    return root, (x - x.mean(0)) / root


def without_mean(g, x):
    root, normal = parts(x, unbiased=False)
    return (g - normal * (g * normal).mean(0)) / root


def bessel(g, x):
    root, normal = parts(x)
    return (g - g.mean(0) - normal * (g * normal).mean(0)) / root


def recurrent(x, w, u):
    h, out = torch.zeros(2, 2, dtype=x.dtype), []
    for step in x:
        h = torch.tanh(step @ w + h @ u)
        out.append(h)
    return torch.stack(out)


def not_carried(g, x, w, u):
    hs = [torch.zeros(2, 2, dtype=x.dtype), *recurrent(x, w, u)]
    slopes = [g[i] * (1 - hs[i + 1] ** 2) for i in range(3)]
    return (torch.stack([one @ w.T for one in slopes]), sum(x[i].T @ one for i, one in enumerate(slopes)),
            sum(hs[i].T @ one for i, one in enumerate(slopes)))


def gelu_backward(g, x, root=0.797885):
    bend = torch.tanh(root * (x + 0.044715 * x ** 3))
    return g * (0.5 * (1 + bend) + 0.5 * x * (1 - bend ** 2) * root * (1 + 3 * 0.044715 * x ** 2))


def pick_backward(g, table, rows):
    grad = torch.zeros_like(table)
    grad[rows] = g
    return grad, None


def softmax_backward(g, x):
    p = x.softmax(-1)
    return p * (g - (g * p).sum(0, keepdim=True))


def transposed_inside(g, x, w):
    slope = g * (1 - torch.tanh(x @ w.T) ** 2)
    return slope @ w.T, x.T @ slope


ORDER, ROWS = torch.tensor([1, 2, 0, 4, 3]), torch.tensor([0, 2, 2, 1])
MISTAKES = {  # the kind, the function, the rule, the inputs
    'the input in tanh': ('input for output', torch.tanh, lambda g, x: g * (1 - x ** 2), (draw(3, 4),)),
    'the output in sin': ('output for input', torch.sin, lambda g, x: g * x.sin().cos(), (draw(3, 4),)),
    'softmax along the wrong axis': ('axis', lambda x: x.softmax(-1), softmax_backward, (draw(3, 3),)),
    'a sum over the wrong axis': ('axis', lambda b: -b.expand(3, 3), lambda g, b: -g.sum(1), (draw(3),)),
    'w.T inside a nonlinear step': ('transpose', lambda x, w: torch.tanh(x @ w), transposed_inside, (draw(3, 4), draw(4, 4))),
    'w in three axes': ('transpose', lambda x, w: torch.einsum('bij,jk->bik', x, w), lambda g, x, w: (g @ w, None), (draw(2, 3, 4), draw(4, 4))),
    'the path through the mean': ('dropped', batch_norm, without_mean, (draw(6, 2),)),
    'no gradient through time': ('dropped', recurrent, not_carried, (draw(3, 2, 4), draw(4, 2), draw(2, 2))),
    'one branch of a residual': ('dropped', lambda x: x + x.tanh(), lambda g, x: g * (1 - x.tanh() ** 2), (draw(3, 4),)),
    'n - 1 for n': ('factor', batch_norm, bessel, (draw(6, 2),)),
    'the root of 2': ('factor', lambda x: x / math.sqrt(4), lambda g, x: g / math.sqrt(8), (draw(3, 4),)),
    'a sign': ('sign', torch.cos, lambda g, x: g * x.sin(), (draw(3, 4),)),
    'a constant with few digits': ('constant', lambda x: F.gelu(x, approximate='tanh'), gelu_backward, (draw(3, 4),)),
    '= for +=': ('overwrite', lambda table, rows: table[rows], pick_backward, (draw(4, 3), ROWS)),
    'swapped': ('swapped', torch.mul, lambda g, x, y: (g * x, g * y), (draw(3, 2), draw(3, 2))),
    'straight through': ('straight-through', torch.round, lambda g, x: g.clone(), (draw(5),)),
    'the permutation for its inverse': ('order', lambda x: x[ORDER], lambda g, x: g[ORDER], (draw(5, 2),)),
    'interleaved for tiled': ('order', lambda x: x.repeat(3), lambda g, x: g.view(4, 3).sum(1), (draw(4),)),
    'the sum in the other direction': ('order', lambda x: x.cumsum(0), lambda g, x: g.cumsum(0), (draw(4),)),
    'a reversed kernel': ('order', F.conv2d, lambda g, x, w: (F.conv_transpose2d(g, w.flip(-1, -2)), None), (draw(1, 2, 5, 5), draw(3, 2, 3, 3))),
    'a mask inverted': ('mask', torch.relu, lambda g, x: g * (x <= 0), (draw(4, 5),)),
    'float32': ('float32', torch.exp, lambda g, x: (g.float() * x.float().exp()).double(), (draw(3, 4),)),
    'the first row for all': ('upstream', torch.exp, lambda g, x: g[0] * x.exp(), (draw(3, 4),)),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_each_kind_is_named(mistake):
    kind, f, rule, inputs = MISTAKES[mistake]
    case = Case(f, rule, inputs)
    wrong = next(name for name, grad in case.grads.items() if not torch.allclose(grad, case.autograd()[name], rtol=1e-9, atol=1e-12))
    causes = find_causes(case, wrong)
    assert causes and causes[0].kind == kind, [str(one) for one in causes]


def test_the_line_is_told():
    assert 'in `lambda' not in explain(Case(torch.tanh, lambda g, x: 2 * g * (1 - x.tanh() ** 2), (draw(3),)), 'input_1')
    assert explain(Case(lambda x: x.softmax(-1), softmax_backward, (draw(3, 3),)), 'x').endswith('in `return p * (g - (g * p).sum(0, keepdim=True))`')


def test_no_cause_is_made_up():
    assert explain(Case(torch.exp, lambda g, x: g * torch.atan(2 * x.exp() + x), (draw(3, 4),)), 'input_1') == ''
