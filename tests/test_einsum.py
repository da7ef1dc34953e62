"""Lesson 03: the product of two matrices as an equation."""
import pytest
import torch
from backprop_course.einsum import matmul_einsum
from torch.testing import assert_close

A, B = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('a, b', [(A, B), (A[:0], B), (A[:, :0], B[:0]), (A[:1], B[:, :1]), (B.t(), A.t()), (A.double(), B.double())],
                         ids=['plain', 'no rows', 'nothing to add', 'a row and a column', 'views', 'double'])
def test_matmul_einsum(a, b):
    assert_close(matmul_einsum(a, b), a @ b)


@pytest.mark.parametrize('a, b, error, words', [
    (A[:, :1], B, ValueError, 'but inner is 1 in a'),  # torch.einsum would stretch it
    (A, B.t(), ValueError, r'try b.t\(\)'), (A[0], B, ValueError, r'try a\[None\]'), (A, B.long(), TypeError, r'try b.float\(\)')])
def test_matmul_einsum_refuses(a, b, error, words):
    assert torch.einsum('ik,kj->ij', A[:, :1], B).shape == (2, 4)
    with pytest.raises(error, match=words):
        matmul_einsum(a, b)
