"""Lesson 04: the scales are those of the papers, and what is measured on the way through many layers is right."""
import math

import pytest
import torch
from backprop_course.init import kaiming_normal, rms, signal_through_layers
from torch.testing import assert_close

INP = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize('size', [1e20, 1e-30])
def test_rms_of_numbers_whose_squares_float32_cannot_hold(size):
    assert_close(rms(torch.tensor([size, -size])).item(), size, rtol=1e-6, atol=0)


def test_rms_of_what_is_not_finite():
    inf = torch.tensor(torch.inf)
    assert rms(inf) == inf and rms(inf - inf).isnan() and rms(torch.zeros(3)) == 0


def test_scale():
    w = kaiming_normal(784, 50, seeded())
    assert w.shape == (784, 50)
    assert_close(w.std().item(), math.sqrt(2 / 784), rtol=0.02, atol=0)
    assert torch.equal(w, kaiming_normal(784, 50, seeded())) and not torch.equal(w, kaiming_normal(784, 50, seeded(2)))


def test_kinds_of_weights():
    assert kaiming_normal(1, 1).shape == (1, 1) and kaiming_normal(3, 4, device='meta').is_meta
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        assert kaiming_normal(3, 4, dtype=dtype).dtype == dtype


@pytest.mark.parametrize('wrong', [(3, -1), (3.5, 4), (3, 4, 42)])  # 42: a seed is no generator
def test_wrong_sizes_are_refused(wrong):
    with pytest.raises((TypeError, RuntimeError)):
        kaiming_normal(*wrong)


def test_no_inputs_have_no_scale():
    with pytest.raises(ZeroDivisionError):
        kaiming_normal(0, 50)


@pytest.mark.parametrize('relu', [False, True])
def test_signal_is_what_a_plain_loop_gives(relu):
    generator, out = seeded(), INP
    outs = signal_through_layers(INP, 0.2, depth=5, relu=relu, generator=seeded())
    assert len(outs) == 6 and torch.equal(outs[0], INP)
    for found in outs[1:]:
        out = out @ (torch.randn(40, 40, generator=generator) * 0.2)
        out = out.relu() if relu else out
        assert_close(found, out)


def test_signal_by_a_function():
    outs = signal_through_layers(INP, lambda n_in, n_out, generator: 2 * torch.eye(n_in, n_out), depth=3)
    assert_close(outs[-1], 8 * INP)


@pytest.mark.parametrize('inp', [INP[:1], INP[:0], INP.t(), INP[:, ::2], INP.double(), INP.half(), INP.bfloat16(), INP.clone().requires_grad_()],
                         ids=['one row', 'no row', 'transposed', 'strided', 'double', 'half', 'bfloat16', 'requires grad'])
def test_signal_of_awkward_inputs(inp):
    out = signal_through_layers(inp, kaiming_normal, depth=3, relu=True, generator=seeded())[-1]
    assert out.dtype == inp.dtype and out.shape == inp.shape and not out.requires_grad and out.isfinite().all()


@pytest.mark.parametrize('inp, error, words', [
    (INP[0], ValueError, r'try inp\[None\]'), (torch.ones(3, 3, dtype=torch.int64), TypeError, r'try inp.float\(\)')])
def test_signal_refuses(inp, error, words):
    with pytest.raises(error, match=words):
        signal_through_layers(inp, 0.1)


def test_signal_refuses_weights_that_do_not_fit():
    with pytest.raises(RuntimeError):
        signal_through_layers(INP, lambda n_in, n_out, generator: torch.ones(n_in, 3))
