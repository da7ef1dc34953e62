"""Lesson 02: a matrix product by broadcasting, and the gradient of every stretch."""
import pytest
import torch
from backprop_course.broadcasting import matmul_broadcast, unbroadcast
from backprop_course.toolbox import shapes
from torch.testing import assert_close

A, B = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('a, b', [(A, B), (A[:0], B), (A[:, :0], B[:0]), (A[:1], B[:, :1]), (B.t(), A.t()), (A.double(), B.double())],
                         ids=['plain', 'no rows', 'nothing to add', 'a row and a column', 'views', 'double'])
def test_matmul_broadcast(a, b):
    assert_close(matmul_broadcast(a, b), a @ b)


@pytest.mark.parametrize('a, b, error, words', [
    (A, B.t(), ValueError, r'but inner is 3 in a; try b.t\(\)'), (A[:, :1], B, ValueError, 'but inner is 1 in a'),
    (A, B.int(), TypeError, r'try b.float\(\)'), (A[0], B, ValueError, r'try a\[None\]')])
def test_matmul_broadcast_refuses(a, b, error, words):
    with pytest.raises(error, match=words):
        matmul_broadcast(a, b)


@pytest.mark.parametrize('small, large', [
    ((3,), (4, 3)), ((4, 1), (4, 3)), ((), (4, 3)), ((1, 1), (4, 3)), ((4, 3), (4, 3)), ((1, 3), (0, 3)), ((0,), (2, 0)), ((1,), (1,)),
    ((2, 1, 1), (5, 2, 3, 4)), ((), ())])
def test_unbroadcast_is_what_autograd_and_the_toolbox_say(small, large):
    grad = torch.randn(large, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    leaf = torch.zeros(small, dtype=torch.float64, requires_grad=True)
    leaf.expand(large).backward(grad)
    assert_close(unbroadcast(grad, small), leaf.grad)
    assert_close(unbroadcast(grad, small), shapes.unbroadcast(grad, small))


def test_unbroadcast_copies_nothing_where_nothing_was_stretched():
    assert unbroadcast(A, (2, 3)).data_ptr() == A.data_ptr()
    assert unbroadcast(A.t().half(), (2,)).dtype == torch.float16


@pytest.mark.parametrize('small', [(4,), (2, 2), (5, 2, 3), (6,), (1, 2, 3), (0,)])
def test_unbroadcast_gives_nothing_where_the_shape_cannot_have_been_stretched(small):
    with pytest.raises((ValueError, RuntimeError)):
        unbroadcast(A, small)
