"""What a layer remembers between forward and backward: right gradients, or a refusal that says what to do."""
import copy
import gc
import pickle
import weakref

import pytest
import torch
from backprop_course.toolbox.calls import Call, Memory, forget_on_failure
from torch.testing import assert_close


class Product(Memory):
    "The smallest layer with a weight: `inp * w`, number by number."

    def __init__(self, w): self.w, self.asked = w, 0

    def parameters(self):
        self.asked += 1
        return [self.w]

    def __call__(self, inp):
        call = Call('Product', (inp,), self.parameters())
        return self.remember(call, inp * self.w)

    def backward(self):
        call = self.only_call()
        (inp,), w, grad_out = call.inputs, self.w, call.upstream_gradient()
        call.add_gradients((grad_out * w, grad_out * inp))
        self.forget()


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run_backward(out, *layers, grad_out=None):
    out.g = torch.ones_like(out) if grad_out is None else grad_out
    for layer in layers:
        layer.backward()


def by_autograd(function, *tensors):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    return torch.autograd.grad(function(*leaves), leaves)


# ---- What is right.

def test_one_call():
    inp, w, grad_out = random(5, 3), random(5, 3, seed=1), random(5, 3, seed=2)
    layer = Product(w)
    out = layer(inp)
    assert layer.inp is inp and layer.out is out
    run_backward(out, layer, grad_out=grad_out)
    for tensor, expected in zip((inp, w), by_autograd(lambda inp, w: (inp * w * grad_out).sum(), inp, w)):
        assert_close(tensor.g, expected)
    assert layer.inp is inp and layer.out is out  # still there to look at


def test_parameters_are_asked_once_a_pass():
    layer = Product(random(3))
    out = layer(random(3))
    assert layer.asked == 1
    run_backward(out, layer)
    assert layer.asked == 2


def test_shared_parameter_gets_the_sum():
    inp, w = random(5, 3), random(5, 3, seed=1)
    first, second = Product(w), Product(w)
    run_backward(second(first(inp)), second, first)
    for tensor, expected in zip((inp, w), by_autograd(lambda inp, w: (inp * w * w).sum(), inp, w)):
        assert_close(tensor.g, expected)


def test_branches_are_added_and_waited_for():
    inp, weights = random(3), [random(3, seed=seed) for seed in (1, 2, 3)]
    below, left, right = map(Product, weights)
    shared = below(inp)
    outs = left(shared), right(shared)
    for out in outs:
        out.g = torch.ones(3)
    left.backward()
    with pytest.raises(RuntimeError, match=r'too early: the output has 1 reader\(s\)'):
        below.backward()
    right.backward(), below.backward()
    expected = by_autograd(lambda inp, a, b, c: (inp * a * b + inp * a * c).sum(), inp, *weights)
    for tensor, gradient in zip((inp, *weights), expected):
        assert_close(tensor.g, gradient)


def test_one_input_of_two_layers():
    inp, (a, b) = random(3), (random(3, seed=seed) for seed in (1, 2))
    layers = Product(a), Product(b)
    for out in [layer(inp) for layer in layers]:
        out.g = torch.ones(3)
    for layer in layers:
        layer.backward()
    assert_close(inp.g, a + b)


def test_output_as_weight_counts_as_read():
    maker = Product(random(3))
    made = maker(random(3, seed=1))
    user = Product(made)
    out = user(random(3, seed=2))
    out.g = torch.ones(3)
    with pytest.raises(RuntimeError, match='too early'):
        maker.backward()
    user.backward(), maker.backward()


def test_each_forward_clears_what_is_old():
    "Twice the same pass, once the same gradients: of data, weights and activations."
    inp, layers = random(3), [Product(random(3, seed=seed)) for seed in (1, 2)]
    found = []
    for _ in range(2):
        hidden = layers[0](inp)
        run_backward(layers[1](hidden), *reversed(layers))
        found.append([tensor.g for tensor in (inp, hidden, *(layer.w for layer in layers))])
    assert_close(*found)


def test_output_that_is_read_again_later():
    "After its layer's backward pass an output is data like any other."
    first, second = Product(random(3)), Product(random(3, seed=1))
    hidden = first(random(3, seed=2))
    for _ in range(2):
        out = second(hidden)
        out.g = torch.ones(3)
        second.backward()
        if first.pending:
            first.backward()
        assert_close(hidden.g, second.w)


def test_loss_begins_with_one():
    layer = Product(torch.tensor(2.0))
    inp = torch.tensor(3.0)
    layer(inp)
    layer.backward()
    assert inp.g == 2 and layer.w.g == 3
    out = layer(inp)
    out.g = torch.tensor(10.0)  # but what is written there, counts
    layer.backward()
    assert inp.g == 20


def test_gradient_is_none_for_what_has_none():
    inp, classes = random(3), torch.tensor([0, 1, 2])
    call = Call('Pick', (inp, classes))
    call.open(inp[classes])
    call.add_gradients((torch.ones(3), None))
    assert classes.g is None and inp.g.tolist() == [1, 1, 1]


def test_inputs_that_are_no_tensors():
    call = Call('Power', (random(3), 2))
    call.open(call.inputs[0] ** 2)
    call.add_gradients((torch.ones(3), None))
    assert not call.is_stale([])


def test_stored_gradients_are_not_followed():
    inp = random(3)
    call = Call('Twice', (inp,))
    call.open(2 * inp)
    call.add_gradients(2 * torch.ones(3, requires_grad=True))
    assert not inp.g.requires_grad


def test_inference_mode():
    "Where PyTorch counts no changes."
    with torch.inference_mode():
        layer, inp = Product(random(3)), random(3, seed=1)
        run_backward(layer(inp), layer)
        assert_close(inp.g, layer.w)


# ---- What is refused.

def test_backward_before_forward():
    with pytest.raises(RuntimeError, match='Product.backward.. needs a forward call before it'):
        Product(random(3)).backward()


def test_backward_twice():
    layer, inp = Product(random(3)), random(3, seed=1)
    run_backward(layer(inp), layer)
    before = inp.g.clone()
    with pytest.raises(RuntimeError, match='one for each backward'):
        layer.backward()
    assert inp.g.equal(before)


def test_second_call():
    "Of another batch, or of the same layer in two places; and the layer works afterwards."
    layer, inp = Product(random(3)), random(3, seed=1)
    layer(inp)
    out = layer(random(3, seed=2))
    with pytest.raises(RuntimeError, match='ran forward 2 times before backward.*one layer for each place, and predict'):
        run_backward(out, layer)
    assert inp.g is None
    run_backward(layer(inp), layer)
    assert_close(inp.g, layer.w)


CHANGES = {
    'the input': lambda layer, inp, out: inp.add_(1),
    'the output': lambda layer, inp, out: out.add_(1),
    'the weight': lambda layer, inp, out: layer.w.mul_(0.9),
    'a view of the weight': lambda layer, inp, out: layer.w[1:].zero_(),
    'the weight, detached': lambda layer, inp, out: layer.w.detach().zero_(),
    'another weight': lambda layer, inp, out: setattr(layer, 'w', layer.w.clone()),
}


@pytest.mark.parametrize('change', CHANGES.values(), ids=CHANGES)
def test_changed_between_forward_and_backward(change):
    layer, inp = Product(random(3)), random(3, seed=1)
    out = layer(inp)
    change(layer, inp, out)
    with pytest.raises(RuntimeError, match='a tensor that Product used was changed or replaced after its forward call'):
        run_backward(out, layer)
    assert inp.g is None
    run_backward(layer(inp), layer)  # the next pass is right at once
    assert_close(inp.g, layer.w)


def test_number_of_parameters_changed():
    call = Call('Lin', (random(3),), [random(3)])
    call.open(random(3))
    assert call.is_stale([]) and call.is_stale([*call.parameters, random(3)]) and not call.is_stale(call.parameters)


def test_function_that_changes_its_input():
    class Doubling(Memory):
        def __call__(self, inp): return self.remember(Call('Doubling', (inp,)), inp.mul_(2) + 0)

    layer = Doubling()
    layer(random(3)).g = torch.ones(3)
    with pytest.raises(RuntimeError, match='a tensor that Doubling used was changed'):
        layer.only_call()


def test_nobody_wrote_the_gradient():
    layer, inp = Product(random(3)), random(3, seed=1)
    out = layer(inp)
    with pytest.raises(RuntimeError, match='reads out.g, but nobody has written it'):
        layer.backward()
    run_backward(out, layer)  # it can still be written
    assert_close(inp.g, layer.w)


@pytest.mark.parametrize('out, error, words', [
    (lambda inp, w: 3.0, TypeError, 'Lin.forward should return a tensor, got float'),
    (lambda inp, w: (inp, w), TypeError, 'got tuple'),
    (lambda inp, w: inp, ValueError, r'returned its own input or parameter.*try .clone\(\)'),
    (lambda inp, w: w, ValueError, 'returned its own input or parameter')])
def test_outputs_that_are_refused(out, error, words):
    inp, w = random(3), random(3)
    inp.g = torch.ones(3)
    with pytest.raises(error, match=words):
        Call('Lin', (inp,), [w]).open(out(inp, w))
    assert inp.g is not None  # nothing was cleared


@pytest.mark.parametrize('grads, error, words', [
    (torch.ones(3), RuntimeError, 'Lin.backward_rule returned 1 gradients for 2 inputs and parameters'),
    ((torch.ones(3), None, None), RuntimeError, 'returned 3 gradients for 2'),
    ((torch.ones(3), torch.ones(3, 1)), ValueError, r'a tensor of shape \(3, 1\), torch.float32 as the gradient of a tensor of shape \(3,\)'),
    ((torch.ones(3), torch.ones(3).double()), ValueError, 'torch.float64 as the gradient of a tensor of shape .3,., torch.float32'),
    ((torch.ones(3), 1.0), ValueError, 'returned a float as the gradient of a tensor')])
def test_gradients_that_are_refused(grads, error, words):
    inp, w = random(3), random(3)
    call = Call('Lin', (inp,), [w])
    call.open(inp * w)
    with pytest.raises(error, match=words):
        call.add_gradients(grads)
    assert inp.g is None and w.g is None  # all or none


def test_gradient_of_what_is_no_tensor():
    call = Call('Power', (2,))
    call.open(random(3))
    with pytest.raises(ValueError, match='as the gradient of a int'):
        call.add_gradients(torch.ones(()))


def test_the_error_is_shown_at_the_callers_line(pytester_run):
    said = pytester_run('from backprop_course.toolbox.calls import Memory\n\n\ndef test_it():\n    Memory().only_call()\n')
    assert 'test_it.py:5: RuntimeError' in said and 'calls.py' not in said, said


# ---- What is forgotten.

def test_reader_that_forgets_is_not_waited_for():
    below, above = Product(random(3)), Product(random(3, seed=1))
    hidden = below(random(3, seed=2))
    above(hidden)
    above.forget()
    run_backward(hidden, below)


def test_reader_that_was_thrown_away_is_waited_for():
    "Its part of the gradient will never come, so the sum would be wrong."
    below, above = Product(random(3)), Product(random(3, seed=1))
    hidden = below(random(3, seed=2))
    Product(random(3, seed=3))(hidden)
    gc.collect()
    out = above(hidden)
    with pytest.raises(RuntimeError, match='too early'):
        run_backward(out, above, below)


def test_layer_that_is_thrown_away_takes_its_calls_along():
    layer, inp = Product(random(3)), random(3)
    out = weakref.ref(layer(inp))
    assert out() is not None
    del layer
    gc.collect()
    assert out() is None


@pytest.mark.parametrize('twin', [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
                         ids=['copy', 'deepcopy', 'pickle'])
def test_twins_have_made_no_call(twin):
    layer, inp = Product(random(3)), random(3, seed=1)
    out = layer(inp)
    other = twin(layer)
    assert not other.pending and other.out is None and other.inp is None and other.w.equal(layer.w)
    with pytest.raises(RuntimeError, match='needs a forward call'):
        other.backward()
    run_backward(out, layer)  # and the original is as it was
    assert_close(inp.g, layer.w)


def test_a_failed_pass_leaves_nothing_behind():
    layers = [Product(random(3)), Product(random(4, seed=1))]  # which do not fit together
    hidden = None
    with pytest.raises(RuntimeError, match='size of tensor'):
        with forget_on_failure(*layers):
            hidden = layers[0](random(3, seed=2))
            layers[1](hidden)
    assert not any(layer.pending for layer in layers)
    inp = random(3)
    run_backward(layers[0](inp), layers[0])
    assert_close(inp.g, layers[0].w)


def test_an_interrupted_pass_leaves_nothing_behind():
    layer = Product(random(3))
    with pytest.raises(KeyboardInterrupt):
        with forget_on_failure(layer):
            layer(random(3))
            raise KeyboardInterrupt
    assert not layer.pending


def test_a_pass_that_does_not_fail_is_remembered():
    layer = Product(random(3))
    with forget_on_failure(layer):
        layer(random(3))
    assert len(layer.pending) == 1
