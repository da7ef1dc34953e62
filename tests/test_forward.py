"""Lesson 05: lin, relu and mse are PyTorch's, for every shape and kind of number, and refuse what broadcasting would hide."""
import pytest
import torch
import torch.nn.functional as F
from backprop_course.forward import lin, mse, relu
from torch.testing import assert_close

NUMBERS = torch.Generator().manual_seed(0)
INP, W, B = torch.randn(6, 4, generator=NUMBERS), torch.randn(4, 3, generator=NUMBERS), torch.randn(3, generator=NUMBERS)
OUT, TARG = torch.randn(6, 1, generator=NUMBERS), torch.randn(6, generator=NUMBERS)


@pytest.mark.parametrize('inp', [INP, INP[:1], INP[:0], INP.t().contiguous().t(), torch.cat([INP, INP], 1)[:, ::2]])
def test_lin(inp):
    before = B.clone()
    assert_close(lin(inp, W, B), F.linear(inp, W.t(), B))
    assert torch.equal(B, before)  # the bias is added in place, to the product


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(dtype):
    out = lin(INP.to(dtype), W.to(dtype), B.to(dtype))
    assert out.dtype == relu(out).dtype == mse(OUT.to(dtype), TARG.to(dtype)).dtype == dtype
    assert_close(out.float(), lin(INP, W, B), rtol=0.05, atol=0.05)


def test_relu():
    inp = torch.tensor([-2.0, -0.0, 0.0, 0.5, float('nan')])
    assert_close(relu(inp), F.relu(inp), equal_nan=True)
    assert relu(torch.tensor(-1.)).shape == () and relu(torch.ones(2, 0)).shape == (2, 0)


def test_mse():
    assert_close(mse(OUT, TARG), F.mse_loss(OUT.squeeze(-1), TARG))
    assert_close(mse(OUT[:1], TARG[:1]), (OUT[0, 0] - TARG[0]) ** 2)
    assert mse(OUT, TARG).shape == () and mse(OUT[:0], TARG[:0]).isnan()


@pytest.mark.parametrize('call, error, words', [
    (lambda: lin(INP, W.t(), B), ValueError, r'try w.t\(\)'),
    (lambda: lin(INP, W, B[:1]), ValueError, r'b of shape \(n_out,\), got \(1,\)'),
    (lambda: lin(INP[0], W, B), ValueError, r'try inp\[None\]'),
    (lambda: lin(INP.int(), W, B), TypeError, r'try inp.float\(\)'),
    (lambda: lin(INP, W.double(), B), TypeError, 'one dtype'),
    (lambda: relu([1.]), TypeError, r'try torch.tensor\(inp\)'),
    (lambda: relu(torch.tensor([1])), TypeError, r'try inp.float\(\)'),
    (lambda: mse(OUT, TARG[:, None]), ValueError, r'try targ.squeeze\(-1\)'),
    (lambda: mse(OUT - TARG, TARG), ValueError, r'got \(6, 6\)'),
    (lambda: mse(OUT.squeeze(-1), TARG), ValueError, r'try inp.unsqueeze\(-1\)'),
    (lambda: mse(OUT, TARG[:1]), ValueError, r'targ of shape \(batch,\), got \(1,\)')])
def test_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
