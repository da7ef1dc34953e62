"""Lesson 01: neurons and layers on lists, and the product of two matrices with three loops and with two."""
import pytest
import torch
from backprop_course.matmul import dense, matmul_elementwise, matmul_loops, neuron, relu_list
from torch.testing import assert_close

WEIGHTS = [[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]]
A, B = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
both = pytest.mark.parametrize('matmul', [matmul_loops, matmul_elementwise])


def test_neuron():
    assert neuron([1.0, 2.0, 3.0], [0.5, -1.0, 2.0], 1.0) == 5.5
    assert neuron([], [], 1.0) == 1.0
    with pytest.raises(ValueError, match='shorter'):  # zip alone would drop the third
        neuron([1.0, 2.0, 3.0], [0.5, -1.0], 1.0)


def test_relu_list_keeps_nan():
    assert relu_list([-2.5, 0.0, 5.5]) == [0.0, 0.0, 5.5]
    assert str(relu_list([float('nan')])) == '[nan]'


def test_dense():
    assert dense([1.0, 2.0, 3.0], WEIGHTS, [1.0, -2.0]) == [5.5, -2.5]
    assert dense([7.0], [[2.0]], [1.0]) == [15.0]
    assert dense([1.0], [], []) == []


@pytest.mark.parametrize('weights, biases, words', [
    ([*zip(*WEIGHTS)], [1.0, -2.0], 'shorter'), (WEIGHTS, [1.0], 'shorter'), ([WEIGHTS[0], WEIGHTS[1][:2]], [1.0, -2.0], 'shorter')])
def test_dense_refuses_what_zip_would_drop(weights, biases, words):
    with pytest.raises(ValueError, match=words):
        dense([1.0, 2.0, 3.0], weights, biases)


@both
@pytest.mark.parametrize('a, b', [(A, B), (A[:0], B), (A[:, :0], B[:0]), (A[:1], B[:, :1]), (B.t(), A.t()), (A.double(), B.double())],
                         ids=['plain', 'no rows', 'nothing to add', 'a row and a column', 'views', 'double'])
def test_matmul(matmul, a, b):
    assert_close(matmul(a, b), a @ b)


@both
@pytest.mark.parametrize('b, error, words', [
    (B.t(), ValueError, r'got \(4, 3\), but inner is 3 in left; try right.t\(\)'), (B[0], ValueError, r'shape \(inner, columns\), got \(4,\)'),
    (torch.ones(4, 5), ValueError, r'inner is 3 in left$'), (B.long(), TypeError, r'try right.float\(\)'),
    (B.double(), TypeError, 'one dtype'), (B.tolist(), TypeError, 'a torch tensor for right')])
def test_matmul_refuses(matmul, b, error, words):
    with pytest.raises(error, match=words):
        matmul(A, b)
