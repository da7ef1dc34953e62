"""Lesson 04: the scales are those of the papers, and what is measured on the way through many layers is right."""
import math

import pytest
import torch
from backprop_course.init import kaiming_normal, plot_histograms, plot_signal, rms, signal_through_layers, xavier_normal
from matplotlib.figure import Figure
from torch.testing import assert_close

INP = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize('size', [1e20, 1e-30])
def test_rms_of_numbers_whose_squares_float32_cannot_hold(size):
    assert_close(rms(torch.tensor([size, -size])).item(), size, rtol=1e-6, atol=0)


@pytest.mark.parametrize('size', [1e200, 1e-200])
def test_rms_of_numbers_whose_squares_float64_cannot_hold(size):
    assert_close(rms(torch.tensor([size, -size], dtype=torch.float64)).item(), size)


def test_rms_of_what_is_not_finite_or_not_there():
    inf = torch.tensor(torch.inf)
    assert rms(inf) == inf and rms(inf - inf).isnan() and rms(torch.zeros(3)) == 0
    with pytest.raises(ValueError, match=r'at least one number, got shape \(0, 3\)'):
        rms(torch.ones(0, 3))
    with pytest.raises(TypeError, match=r'try values.float\(\)'):
        rms(torch.tensor([1, 2]))


@pytest.mark.parametrize('init, scale', [(xavier_normal, math.sqrt(2 / (784 + 50))), (kaiming_normal, math.sqrt(2 / 784))])
def test_scale(init, scale):
    w = init(784, 50, seeded())
    assert w.shape == (784, 50)
    assert_close(w.std().item(), scale, rtol=0.02, atol=0)
    assert torch.equal(w, init(784, 50, seeded())) and not torch.equal(w, init(784, 50, seeded(2)))


@pytest.mark.parametrize('init', [xavier_normal, kaiming_normal])
def test_kinds_of_weights(init):
    assert init(1, 1).shape == (1, 1) and init(3, 4, device='meta').is_meta
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        assert init(3, 4, dtype=dtype).dtype == dtype


@pytest.mark.parametrize('init', [xavier_normal, kaiming_normal])
@pytest.mark.parametrize('wrong', [(3, -1), (3.5, 4), (3, 4, 42)])  # 42: a seed is no generator
def test_wrong_sizes_are_refused(init, wrong):
    with pytest.raises((TypeError, RuntimeError)):
        init(*wrong)


def test_no_inputs_have_no_scale():
    with pytest.raises(ZeroDivisionError):
        kaiming_normal(0, 50)


def test_signal_is_what_a_plain_loop_gives():
    generator, out = seeded(), INP
    for _ in range(5):
        out = (out @ (torch.randn(40, 40, generator=generator) * 0.2)).relu()
    signal = signal_through_layers(INP, 0.2, depth=5, relu=True, generator=seeded(), keep=(0, 5))
    assert_close(signal.out, out)
    assert torch.equal(signal.kept[0], INP) and torch.equal(signal.kept[5], signal.out)
    out = signal.out.double()
    assert_close(signal.mean[-1], out.mean())
    assert_close(signal.std[-1], out.std(correction=0))
    assert_close(signal.rms[-1], out.square().mean().sqrt())
    assert_close(signal.apart[-1], (out - out.mean(0)).square().mean().sqrt())
    assert_close(signal.zeros[-1], (out == 0).double().mean())
    assert_close(signal.rms.square(), signal.mean.square() + signal.std.square())
    assert str(signal).startswith('Signal of 5 layers: rms')


def test_signal_with_a_bias():
    def ones(n_in, n_out, generator): return torch.ones(n_out)
    signal = signal_through_layers(INP, 0., depth=2, bias=ones)
    assert_close(signal.out, torch.ones_like(INP))
    assert signal.apart[-1] == 0


@pytest.mark.parametrize('inp', [INP[:1], INP.t(), INP[:, ::2], INP.double(), INP.half(), INP.bfloat16(), INP.clone().requires_grad_()],
                         ids=['one row', 'transposed', 'strided', 'double', 'half', 'bfloat16', 'requires grad'])
def test_signal_of_awkward_inputs(inp):
    signal = signal_through_layers(inp, xavier_normal, depth=3, relu=True, generator=seeded(), keep=(0, 3))
    assert signal.out.dtype == inp.dtype and signal.out.shape == inp.shape and not signal.out.requires_grad
    assert signal.rms.isfinite().all() and set(signal.kept) == {0, 3}


@pytest.mark.parametrize('inp, error, words', [
    (INP[0], ValueError, r'try inp\[None\]'), (torch.ones(0, 4), ValueError, 'at least one number'),
    (torch.ones(3, 3, dtype=torch.int64), TypeError, r'try inp.float\(\)')])
def test_signal_refuses(inp, error, words):
    with pytest.raises(error, match=words):
        signal_through_layers(inp, 0.1)


def test_signal_refuses_weights_that_do_not_fit():
    with pytest.raises(RuntimeError):
        signal_through_layers(INP, lambda n_in, n_out, generator: torch.ones(n_in, 3))


def test_plot_signal_says_what_a_logarithmic_axis_cannot_show():
    inf, nan = torch.inf, torch.nan
    ax = plot_signal({'grows': torch.tensor([1., 1e30, inf, nan]), 'dies': torch.tensor([1., 0., 0.]), 'lost': torch.tensor([nan]),
                      'fine': torch.tensor([1., 2.])}, ax=Figure().subplots())
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ['grows (inf from layer 2, nan from layer 3)', 'dies (0 from layer 1)', 'lost (nan from layer 0)', 'fine']
    assert ax.get_yscale() == 'log' and any(abs(tick - 1) < 1e-9 for tick in ax.get_yticks())
    with pytest.raises(ValueError, match=r'shape \(layers,\)'):
        plot_signal({'square': torch.ones(3, 3)}, ax=ax)


def test_plot_histograms_says_how_many_zeros():
    signal = signal_through_layers(INP, kaiming_normal, depth=2, relu=True, generator=seeded(), keep=(0, 1))
    ax = plot_histograms(signal, ax=Figure().subplots())
    assert [label.get_text() for label in ax.get_yticklabels()] == ['layer 0', 'layer 1']
    assert [text.get_text() for text in ax.texts] == ['', f'{signal.zeros[1]:.0%} zeros']
    with pytest.raises(ValueError, match='kept layers; try'):
        plot_histograms(signal_through_layers(INP, 0.1, depth=1))


def test_plot_histograms_of_what_is_lost():
    signal = signal_through_layers(torch.full((2, 2), torch.nan), 1., depth=1, keep=(0, 1))
    assert [text.get_text() for text in plot_histograms(signal, ax=Figure().subplots()).texts] == 2 * ['100% nan']
