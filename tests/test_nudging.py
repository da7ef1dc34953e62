"""Slopes by nudging: the plain ones, and how much of a slope can be known where digits are lost or the domain ends."""
import math

import pytest
import torch
from backprop_course.toolbox.nudging import Slope, measure_slope, noise_of, numerical_gradient, plot_step_size
from torch.testing import assert_close

GENERATOR = torch.Generator().manual_seed(6)


def draw(*shape):
    return torch.randn(shape, generator=GENERATOR)


# ---- numerical_gradient

@pytest.mark.parametrize('x', [draw(3, 2).double(), draw(2, 3).double().T, draw().double(), draw(0, 2).double(), draw(4).double()[::2]])
def test_slopes(x):
    before = x.clone()
    slopes = numerical_gradient(lambda x: (x ** 3).sum(), x)
    assert slopes.shape == x.shape and torch.equal(x, before)
    assert_close(slopes, 3 * x ** 2, rtol=1e-6, atol=1e-8)


def test_slopes_in_other_dtypes():
    for dtype in (torch.float16, torch.float32):
        slopes = numerical_gradient(lambda x: (3 * x).sum(), torch.tensor([-2.0, 0.5], dtype=dtype))
        assert slopes.dtype == dtype and torch.allclose(slopes, torch.full_like(slopes, 3), rtol=0.1)


@pytest.mark.parametrize('f, x, options, error, words', [
    (torch.relu, draw(5, 4), {}, ValueError, r'a single number as a tensor, got \(5, 4\); try \(f\(x\) \* grad_out\).sum\(\)'),
    (lambda x: x.sum().item(), draw(2), {}, ValueError, 'a single number as a tensor, got float'),
    (lambda x: x.sum().double(), draw(2), {}, TypeError, 'in the dtype of x, torch.float32, got torch.float64'),
    (torch.sum, torch.tensor([1, 2]), {}, TypeError, r'floating-point numbers in x, got torch.int64; try x.float\(\)'),
    (torch.sum, [1.0], {}, TypeError, 'a torch tensor for x, got list'),
    (torch.sum, torch.tensor([1.0, torch.inf]), {}, ValueError, 'finite numbers in x'),
    (torch.sum, torch.tensor([1.0]), {'step': 1e-12}, ValueError, 'a step that torch.float32 can see at 1, got 1e-12; try step=None'),
    (torch.sum, torch.tensor([1.0]), {'step': 0}, ValueError, 'a finite step above 0, got 0'),
    (torch.sum, torch.tensor([1.0]), {'step': -1.0}, ValueError, 'a finite step above 0'),
    (torch.sum, torch.tensor([1.0]), {'step': torch.inf}, ValueError, 'a finite step above 0'),
    (torch.sum, torch.tensor([1.0]), {'step': torch.nan}, ValueError, 'a finite step above 0'),
])
def test_slopes_that_cannot_be_measured(f, x, options, error, words):
    with pytest.raises(error, match=words):
        numerical_gradient(f, x, **options)


def test_step_size_figure():
    from matplotlib.figure import Figure
    axes = Figure().subplots()
    assert plot_step_size(lambda x: (x ** 3).sum(), lambda x: 3 * x ** 2, draw(4).abs() + 1, ax=axes) is axes
    rough, fine = (min(line.get_ydata()) for line in axes.lines)
    assert rough > 1e-5 and fine < 1e-8

# ---- How much of a slope can be known: the truth lies within the bound, and the bound is no larger than it need be.

def softplus(x): return math.log1p(math.exp(x)) if x < 30 else x
def cancels(x): return (1e9 + math.sin(x)) - 1e9


@pytest.mark.parametrize('f, at, slope, bound', [
    (math.exp, 1.0, math.e, 1e-8), (math.sin, 1e3, math.cos(1e3), 1e-5), (lambda x: math.sin(300 * x), 0.5, 300 * math.cos(150), 1e-4),
    (math.log, 2e-9, 5e8, 5e5), (math.log, 1e-3, 1e3, 1e-2), (math.sqrt, 1e-12, 5e5, 5e3), (lambda x: x ** 3, 0.0, 0.0, 1e-7),
    (lambda x: x ** 2, 1e6, 2e6, 10), (softplus, -20.0, 1 / (1 + math.exp(20)), 1e-10), (math.tanh, 18.0, 1 / math.cosh(18) ** 2, 1e-8),
    (cancels, 1.0, math.cos(1), 0.5), (lambda x: max(x, 0) ** 1.5, 0.0, 0.0, 0.1), (lambda x: abs(x) ** 1.1, 0.0, 0.0, 1.0),
    (lambda x: abs(x - 1e-6), 0.0, -1.0, 1e-4), (lambda x: 0.0, 3.0, 0.0, 1e-12), (lambda x: 1e-8 * x, 1.0, 1e-8, 1e-12)])
def test_the_truth_lies_within_the_bound(f, at, slope, bound):
    def nudged(h): return f(at + h)
    found = measure_slope(nudged, at, noise_of(nudged, max(1.0, abs(at))) if at == 0 or abs(at) > 1e-6 else 0.0)
    assert abs(found.value - slope) <= found.error <= bound and not found.is_kink


@pytest.mark.parametrize('f, at, left, right', [(abs, 0.0, -1, 1), (lambda x: max(x, 0), 0.0, 0, 1), (lambda x: min(3 * x, x), 0.0, 3, 1),
                                                (lambda x: abs(x - 5), 5.0, -1, 1), (lambda x: max(x, 0) + math.exp(x), 0.0, 1, 2)])
def test_kinks(f, at, left, right):
    found = measure_slope(lambda h: f(at + h), at)
    assert found.is_kink and math.isclose(found.left, left, abs_tol=1e-3) and math.isclose(found.right, right, abs_tol=1e-3)


@pytest.mark.parametrize('f, at', [(math.sqrt, 0.0), (lambda x: math.log(x), 0.0), (lambda x: float(round(x)), 0.5), (lambda x: math.copysign(1, x), 0.0)])
def test_no_slope(f, at):
    "At the edge of a domain, and where the function jumps, no bound is given that means anything."
    def nudged(h): return f(at + h)
    assert measure_slope(nudged, at).error > 1e3


def test_a_kink_close_by_is_none_here():
    assert measure_slope(lambda h: abs(3e-7 + h), 3e-7) == measure_slope(lambda h: abs(3e-7 + h), 3e-7)
    assert not measure_slope(lambda h: abs(3e-5 + h), 3e-5).is_kink


def test_noise():
    assert noise_of(lambda h: 2.0) == 0 and noise_of(lambda h: math.nan) == math.inf
    assert 1e-9 < noise_of(lambda h: (1e8 + math.sin(1 + h)) - 1e8) < 1e-7
    assert Slope(1.0, 0.0, 0.0, 2.0).is_kink
