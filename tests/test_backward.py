"""Lesson 06: the rules of lin, relu and mse are autograd's for every shape, change nothing, and refuse what broadcasting would hide; `.g` is stored where it belongs."""
import backprop_course.backward
import pytest
import torch
from backprop_course.backward import (forward_and_backward, lin_backward, lin_grad, mse_backward, mse_grad,
                                      relu_backward, relu_grad)
from backprop_course.forward import lin, mse, relu
from backprop_course.toolbox.rules import find_rule
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, SHAPES, tensors
from torch.testing import assert_close

LENGTHS = st.integers(0, 4)


def by_autograd(f, grad_out, *inputs):
    leaves = [x.detach().requires_grad_() for x in inputs]
    return torch.autograd.grad(f(*leaves), leaves, grad_out, allow_unused=True, materialize_grads=True)


# ---- The rules. (That they are proved: test_proofs.)

@given(LENGTHS, LENGTHS, LENGTHS, SEEDS)
def test_lin_backward(batch, n_in, n_out, seed):
    given = tensors([(batch, n_out), (batch, n_in), (n_in, n_out), (n_out,)], seed)
    before = [x.clone() for x in given]
    grads = lin_backward(*given)
    for grad, wanted in zip(grads, by_autograd(lin, *given), strict=True):
        assert_close(grad, wanted)
    assert all(map(torch.equal, given, before))
    none, *others = lin_backward(*given, needs_inp_grad=False)
    assert none is None and all(map(torch.equal, others, grads[1:]))


@given(SHAPES, SEEDS)
def test_relu_backward(shape, seed):
    grad_out, inp = tensors([shape, shape], seed)
    before = inp.clone()
    grad = relu_backward(grad_out, inp)
    assert_close(grad, *by_autograd(torch.relu, grad_out, inp))
    assert torch.equal(inp, before) and grad.shape == shape


def test_relu_backward_at_the_kink():
    inp = torch.tensor([-1.0, -0.0, 0.0, 1e-30, 2.0])
    assert relu_backward(torch.ones(5), inp).tolist() == [0, 0, 0, 1, 1]
    assert_close(relu_backward(torch.ones(5), inp), *by_autograd(torch.relu, torch.ones(5), inp))


@given(st.integers(1, 5), SEEDS)
def test_mse_backward(batch, seed):
    grad_out, inp, targ = tensors([(), (batch, 1), (batch,)], seed)
    grad, none = mse_backward(grad_out, inp, targ)
    assert none is None and grad.shape == (batch, 1)
    assert_close(grad, by_autograd(lambda inp: torch.nn.functional.mse_loss(inp.squeeze(-1), targ), grad_out, inp)[0])


def test_mse_backward_of_an_empty_batch():
    grad, _ = mse_backward(torch.ones(()), torch.ones(0, 1), torch.ones(0))
    assert grad.shape == (0, 1)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    grad_out, inp, w, b = (x.sign().to(dtype) for x in tensors([(5, 3), (5, 4), (4, 3), (3,)], 0))
    targ = torch.ones(5, dtype=dtype)
    grads = *lin_backward(grad_out, inp, w, b), relu_backward(inp, inp), mse_backward(inp.new_ones(()), inp[:, :1], targ)[0]
    for grad, like in zip(grads, (inp, w, b, inp, inp[:, :1]), strict=True):
        assert grad.dtype == dtype and grad.shape == like.shape and grad.isfinite().all()


def test_each_gradient_has_memory_of_its_own():
    grad_out, inp, w, b = tensors([(1, 3), (1, 3), (3, 3), (3,)], 0)
    made = *lin_backward(grad_out, inp, w, b), relu_backward(grad_out, inp)
    places = [x.untyped_storage().data_ptr() for x in (*made, grad_out, inp, w, b)]
    assert len({*places}) == len(places)  # grad_b of one row is the sum of one row, and no view of it


GRAD_OUT, INP, W, B = tensors([(5, 3), (5, 4), (4, 3), (3,)], 6)
COLUMN, TARG, ONE = INP[:, :1], INP[:, 0], torch.ones((), dtype=torch.float64)


@pytest.mark.parametrize('call, error, words', [
    (lambda: lin_backward(GRAD_OUT[:, :2], INP, W, B), ValueError, r'lin_backward expects w of shape \(n_in, n_out\), got \(4, 3\), but n_out is 2 in grad_out'),
    (lambda: lin_backward(GRAD_OUT[:1], INP, W, B), ValueError, 'but batch is 1 in grad_out'),
    (lambda: lin_backward(GRAD_OUT, INP, W.t(), B), ValueError, r'try w.t\(\)'),
    (lambda: lin_backward(GRAD_OUT[0], INP[0], W, B), ValueError, r'try grad_out\[None\]'),
    (lambda: lin_backward(GRAD_OUT.float(), INP, W, B), TypeError, r'got torch.float32 in grad_out and torch.float64 in inp; try inp.to\(grad_out.dtype\)'),
    (lambda: lin_backward(GRAD_OUT, INP, W, None), TypeError, 'a torch tensor for b, got NoneType'),
    (lambda: relu_backward(INP[0], INP), ValueError, r'relu_backward expects grad_out and inp of one shape, got \(4,\) and \(5, 4\)'),
    (lambda: relu_backward(ONE, INP), ValueError, r'got \(\) and \(5, 4\)'),
    (lambda: relu_backward(INP.float(), INP), TypeError, 'expects one dtype'),
    (lambda: mse_backward(ONE, COLUMN, COLUMN), ValueError, r'mse_backward expects targ of shape \(batch,\), got \(5, 1\); try targ.squeeze\(-1\)'),
    (lambda: mse_backward(ONE, TARG, TARG), ValueError, r'try inp.unsqueeze\(-1\)'),
    (lambda: mse_backward(TARG, COLUMN, TARG), ValueError, 'expects grad_out of shape'),
    (lambda: mse_backward(ONE, COLUMN, TARG.long()), TypeError, r'try targ.float\(\)'),
    (lambda: mse_grad(COLUMN, COLUMN), ValueError, 'mse_grad expects targ of shape'),
])
def test_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


# ---- The bookkeeping: who stores which gradient on which tensor.

def model(batch=6, seed=3):
    "Inputs, targets, and the parameters of two layers."
    inp, targ, *parameters = tensors([(batch, 4), (batch,), (4, 5), (5,), (5, 1), (1,)], seed)
    return inp, targ, *parameters


def loss_of(inp, targ, w1, b1, w2, b2):
    return mse(lin(relu(lin(inp, w1, b1)), w2, b2), targ)


@pytest.mark.parametrize('batch', [6, 1])
def test_forward_and_backward(batch):
    inp, targ, *parameters = model(batch)
    leaves = [x.clone().requires_grad_() for x in (inp, *parameters)]
    expected = loss_of(leaves[0], targ, *leaves[1:])
    expected.backward()
    loss = forward_and_backward(inp, targ, *parameters)
    assert_close(loss, expected.detach())
    for x, leaf in zip((inp, *parameters), leaves, strict=True):
        assert_close(x.g, leaf.grad)
    assert not hasattr(targ, 'g')


def test_a_second_run_replaces_the_gradients():
    inp, targ, *parameters = model()
    forward_and_backward(inp, targ, *parameters)
    first = parameters[0].g.clone()
    forward_and_backward(inp, targ, *parameters)
    assert_close(parameters[0].g, first)


def test_without_the_gradient_of_the_input():
    inp, targ, *parameters = model()
    forward_and_backward(inp, targ, *parameters)
    expected = [x.g for x in parameters]
    forward_and_backward(inp, targ, *parameters, needs_inp_grad=False)
    assert inp.g is None
    for x, grad in zip(parameters, expected, strict=True):
        assert_close(x.g, grad)


def test_nothing_of_autograd_is_touched():
    inp, targ, *parameters = (x.requires_grad_() for x in model())
    loss = forward_and_backward(inp, targ, *parameters)
    assert not loss.requires_grad
    for x in (inp, *parameters):
        assert x.grad is None and not x.g.requires_grad


def test_step_by_step():
    "The loss writes on the last layer's output, and each step reads what the one after it wrote."
    inp, targ, w1, b1, w2, b2 = model()
    l1 = lin(inp, w1, b1)
    l2 = relu(l1)
    out = lin(l2, w2, b2)
    mse_grad(out, targ)
    assert_close(out.g, mse_backward(ONE, out, targ)[0])
    lin_grad(l2, out, w2, b2)
    relu_grad(l1, l2)
    lin_grad(inp, l1, w1, b1)
    made = [x.g for x in (inp, w1, b1, w2, b2)]
    forward_and_backward(inp, targ, w1, b1, w2, b2)
    for x, grad in zip((inp, w1, b1, w2, b2), made, strict=True):
        assert_close(x.g, grad)


def test_a_step_that_comes_too_early():
    inp, _, w1, b1, *_ = model()
    out = lin(inp, w1, b1)
    for call in (lambda: lin_grad(inp, out, w1, b1), lambda: relu_grad(inp, out)):
        with pytest.raises(RuntimeError, match='_grad reads out.g, .* nobody has written it; first run the backward step'):
            call()
    assert not any(hasattr(x, 'g') for x in (inp, w1, b1))
    out.g = None  # as a step without needs_inp_grad leaves it
    with pytest.raises(RuntimeError, match='nobody has written it'):
        relu_grad(inp, out)


def test_a_copy_of_the_output_is_another_tensor():
    inp, targ, w1, b1, w2, b2 = model()
    out = lin(relu(lin(inp, w1, b1)), w2, b2)
    mse_grad(out.clone(), targ)
    with pytest.raises(RuntimeError, match='nobody has written it'):
        lin_grad(inp, out, w2, b2)


def test_one_tensor_in_two_places():
    "There is room for one gradient on it, and the second would replace the first."
    square = torch.ones(3, 3)
    out = lin(square, square, torch.ones(3))
    out.g = torch.ones(3, 3)
    with pytest.raises(ValueError, match=r'lin_grad expects 3 tensors to write .g on, got one of them twice: .*; try .clone\(\)'):
        lin_grad(square, out, square, torch.ones(3))
    inp, targ, w1, b1, w2, b2 = model()
    with pytest.raises(ValueError, match='forward_and_backward expects 5 tensors to write .g on'):
        forward_and_backward(inp, targ, w1, b1, w2, w2)
    assert not hasattr(w1, 'g')


# ---- What the lesson hands on.

def test_exports():
    "Its own rules and their bookkeeping, and nothing of the toolbox."
    assert set(backprop_course.backward.__all__) == {
        'lin_backward', 'relu_backward', 'mse_backward', 'lin_grad', 'relu_grad', 'mse_grad', 'forward_and_backward'}
    for name in ('check_gradient', 'prove_gradient', 'prove_rules', 'numerical_gradient', 'index_sums', 'einsum_backward', 'register_rule'):
        assert not hasattr(backprop_course.backward, name), f'import {name} from the toolbox'


@pytest.mark.parametrize('f, f_backward', [(lin, lin_backward), (relu, relu_backward), (mse, mse_backward)])
def test_registered(f, f_backward):
    assert find_rule(f).f_backward is f_backward
