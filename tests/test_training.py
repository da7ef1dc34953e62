"""Losses and optimisers are PyTorch's to the last digits, and so is the training that they do."""
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from backprop_course.modules import Lin, Model, Relu
from backprop_course.toolbox.engine import Variable
from backprop_course.training import (SGD, Adam, CrossEntropy, Data, History, Optimizer, accuracy, batches, cross_entropy, cross_entropy_backward,
                                      digits, fit, log_softmax, log_softmax_backward, log_sum_exp)
from hypothesis import event, given
from hypothesis import strategies as st
from strategies import SEEDS
from torch import nn
from torch.testing import assert_close


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def same(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- The loss and its rules.

@st.composite
def problems(draw):
    "Logits in float64, of moderate and of extreme size, equal ones among them; a class for each row; an upstream gradient for each number."
    batch, n_classes = draw(st.sampled_from([2, 3, 1, 0])), draw(st.sampled_from([3, 2, 5, 1]))
    scale, shift = draw(st.sampled_from([1.0, 0.0, 30.0, 1e3, 1e6, 1e300])), draw(st.sampled_from([0.0, 1e3, -1e3, 1e15, -1e300]))
    seed = draw(SEEDS)
    event(f'scale {scale:g}')
    inp = scale * random(batch, n_classes, seed=seed, dtype=torch.float64) + shift
    inp = inp.T.contiguous().T if draw(st.booleans()) else inp
    classes = torch.randint(n_classes, (batch,), generator=same(seed), dtype=draw(st.sampled_from([torch.int64, torch.int32, torch.uint8])))
    return inp, classes, random(batch, n_classes, seed=seed + 1, dtype=torch.float64)


def torch_gradient(function, grad_out, inp):
    leaf = inp.clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf, grad_out)[0]


@given(problems())
def test_log_sum_exp(problem):
    inp, _, upstream = problem
    out = log_sum_exp(inp)
    assert_close(out, inp.logsumexp(1), rtol=1e-12, atol=0)
    above = out - inp.amax(1)
    assert (above >= 0).all() and (above <= math.log(inp.shape[1]) * (1 + 1e-9) + out.abs() * 1e-15).all()


@given(problems())
def test_log_softmax(problem):
    inp, _, upstream = problem
    out = log_softmax(inp)
    assert_close(out, inp.log_softmax(1), rtol=1e-12, atol=1e-15)
    assert (out <= 0).all()
    assert_close(out.exp().sum(1), torch.ones(len(inp), dtype=torch.float64))
    assert_close(log_softmax_backward(upstream, inp), torch_gradient(lambda x: x.log_softmax(1), upstream, inp), rtol=1e-9, atol=1e-14)


@given(problems())
def test_cross_entropy(problem):
    inp, classes, upstream = problem
    assert_close(cross_entropy(inp, classes), F.cross_entropy(inp, classes.long()), equal_nan=True, rtol=1e-12, atol=1e-15)
    grad_out = torch.tensor(-0.7, dtype=torch.float64)
    grad, none = cross_entropy_backward(grad_out, inp, classes)
    assert none is None and grad.isfinite().all()
    assert_close(grad.sum(1), torch.zeros(len(inp), dtype=torch.float64))  # what one class gains, the others lose
    if len(inp):
        assert_close(grad, torch_gradient(lambda x: F.cross_entropy(x, classes.long()), grad_out, inp), rtol=1e-9, atol=1e-15)


@given(problems(), st.floats(-1e3, 1e3))
def test_only_differences_count(problem, shift):
    inp, classes, _ = problem
    shifted = inp + shift
    if ((shifted - shift) == inp).all():  # where adding it was exact
        assert_close(log_softmax(shifted), log_softmax(inp))


def test_logits_near_1000_lose_no_digits():
    "The short way, through `log_sum_exp`, does."
    inp = torch.tensor([[1000.0, 1000.001]])
    precise = log_softmax(inp.double())
    assert_close(log_softmax(inp).double(), precise, rtol=1e-6, atol=0)
    with pytest.raises(AssertionError):
        assert_close((inp - log_sum_exp(inp)[:, None]).double(), precise, rtol=1e-6, atol=0)


def test_extreme_logits_in_float32():
    extreme, classes = torch.tensor([[1000.0, -1000, 0], [1000, -1000, 0], [-1000, -1000, -1000]]), torch.tensor([1, 0, 2])
    assert_close(-log_softmax(extreme)[range(3), classes], torch.tensor([2000.0, 0.0, math.log(3)]))
    grad, _ = cross_entropy_backward(torch.tensor(3.0), extreme, classes)
    assert_close(grad, torch.tensor([[1, -1, 0], [0, 0, 0], [1 / 3, 1 / 3, -2 / 3]]))


@pytest.mark.parametrize('dtype, rtol', [(torch.float64, 1e-5), (torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_loss_in_other_dtypes(dtype, rtol):
    logits, classes = random(4, 10), torch.tensor([3, 1, 4, 1])
    assert_close(cross_entropy(logits.to(dtype), classes).float(), F.cross_entropy(logits, classes), rtol=rtol, atol=0)
    grad, _ = cross_entropy_backward(torch.tensor(1.0, dtype=dtype), logits.to(dtype), classes)
    assert grad.dtype == dtype
    assert_close(grad.float(), cross_entropy_backward(torch.tensor(1.0), logits, classes)[0], rtol=rtol, atol=0.01 * rtol)


def test_nothing_and_one_class():
    none, no_class = torch.ones(0, 10), torch.tensor([], dtype=torch.int64)
    assert log_softmax(none).shape == (0, 10) and log_sum_exp(none).shape == (0,)
    assert cross_entropy(none, no_class).isnan() and math.isnan(accuracy(none, no_class))
    assert cross_entropy(random(4, 1), torch.zeros(4, dtype=torch.int64)) == 0


@pytest.mark.parametrize('targ, error', [
    (torch.tensor([1., 2.]), TypeError), (torch.tensor([[1], [2]]), ValueError), (torch.tensor([1, 10]), ValueError), (torch.tensor([1]), ValueError)])
def test_labels_that_are_refused(targ, error):
    calls = [cross_entropy, lambda inp, targ: cross_entropy_backward(torch.tensor(1.0), inp, targ), accuracy]
    for call, name in zip(calls, ('cross_entropy', 'cross_entropy_backward', 'accuracy')):
        with pytest.raises(error, match=f'{name} expects'):
            call(torch.ones(2, 10), targ)


@pytest.mark.parametrize('call', [
    lambda: log_softmax(torch.ones(3)), lambda: log_sum_exp(torch.ones(2, 3, 4)), lambda: log_softmax_backward(torch.ones(2, 3), torch.ones(3, 2)),
    lambda: log_softmax(torch.ones(3, 2, dtype=torch.int64)),
    lambda: cross_entropy_backward(torch.ones(1), torch.ones(1, 2), torch.tensor([0])), lambda: log_softmax(torch.ones(3, 0))])
def test_logits_that_are_refused(call):
    with pytest.raises((ValueError, TypeError, IndexError)):
        call()


def test_cross_entropy_as_a_layer():
    inp, classes, loss = random(4, 10), torch.tensor([3, 1, 4, 1]), CrossEntropy()
    assert loss(inp, classes) == cross_entropy(inp, classes)
    loss.backward()
    assert_close(inp.g, torch_gradient(lambda x: F.cross_entropy(x, classes), None, inp))
    assert classes.g is None


# ---- Optimisers, step for step.

def step_with(optimizer, *grads):
    for parameter, grad in zip(optimizer.parameters, grads, strict=True):
        parameter.g = grad
    optimizer.step()


rates, shares = st.floats(1e-4, 1.0), st.floats(0.0, 0.99)


@given(SEEDS, rates, st.one_of(st.just(0.0), shares))
def test_sgd(seed, lr, momentum):
    assert_same_steps(SGD, torch.optim.SGD, seed, lr=lr, momentum=momentum)


@given(SEEDS, rates, st.tuples(shares, shares), st.sampled_from([1e-8, 1e-3, 1.0]))
def test_adam(seed, lr, betas, eps):
    assert_same_steps(Adam, torch.optim.Adam, seed, lr=lr, betas=betas, eps=eps)


def assert_same_steps(ours, theirs, seed, **options):
    "Six steps of two parameters, with gradients of very different sizes, some of them 0."
    start = [random(3, seed=seed, dtype=torch.float64), random(2, 2, seed=seed + 1, dtype=torch.float64)]
    own, leaves = [w.clone() for w in start], [w.clone().requires_grad_() for w in start]
    our_optimizer, their_optimizer = ours(own, **options), theirs(leaves, **options)
    for step in range(6):
        grads = [10.0 ** (3 * step - 8) * random(*w.shape, seed=seed + step, dtype=torch.float64).relu() for w in start]
        for leaf, grad in zip(leaves, grads):
            leaf.grad = grad.clone()
        step_with(our_optimizer, *grads), their_optimizer.step()
        for w, leaf in zip(own, leaves):
            assert_close(w, leaf.detach(), rtol=1e-9, atol=1e-12)


def test_wrong_optimiser_is_seen():
    class NoCorrection(Adam):
        "Adam whose means are not divided by what they lack at first."
        def direction(self, place, grad):
            self.steps, steps = 10**6, self.steps
            direction = super().direction(place, grad)
            self.steps = steps
            return direction

    with pytest.raises(AssertionError):
        assert_same_steps(NoCorrection, torch.optim.Adam, 0, lr=0.1)


def test_momentum_piles_up_and_cancels():
    w = torch.zeros(1)
    rolling = SGD([w], lr=1.0, momentum=0.9)
    for _ in range(200):
        step_with(rolling, torch.ones(1))
    assert_close(rolling.velocity[0], torch.tensor([10.0]))
    for turn in range(200):
        step_with(rolling, torch.tensor([(-1.0) ** turn]))
    assert_close(rolling.velocity[0].abs(), torch.tensor([1 / 1.9]))


def test_first_step_of_adam_is_lr():
    w = torch.zeros(3)
    step_with(Adam([w], lr=0.01), torch.tensor([1e-4, 0.0, -1.0]))
    assert_close(w, torch.tensor([-0.01, 0.0, 0.01]), rtol=0.01, atol=0)


@pytest.mark.parametrize('make', [
    lambda w: w, lambda w: nn.Parameter(w), Variable], ids=['a tensor and .g', 'a leaf and .grad', 'a Variable'])
def test_where_the_gradient_is(make):
    parameter = make(torch.ones(3))
    if isinstance(parameter, Variable):
        (parameter * parameter).sum().backward()
    elif parameter.requires_grad:
        (parameter * parameter).sum().backward()
    else:
        parameter.g = torch.full((3,), 2.0)
    optimizer = SGD([parameter], lr=0.1)
    optimizer.step()
    assert_close(parameter.data if isinstance(parameter, Variable) else parameter.detach(), torch.full((3,), 0.8))
    optimizer.zero_grad()
    assert parameter.grad is None and getattr(parameter, 'g', None) is None
    with pytest.raises(RuntimeError, match='nobody has written a gradient'):
        optimizer.step()


def test_shared_parameters_move_once():
    w = torch.zeros(3)
    optimizer = SGD([w, w], lr=1.0)
    assert len(optimizer.parameters) == 1
    step_with(optimizer, torch.ones(3))
    assert w.tolist() == [-1, -1, -1]


def test_what_an_optimiser_refuses():
    w = torch.zeros(3)
    with pytest.raises(RuntimeError, match=r'SGD.step\(\), parameter 0 of shape \(3,\): nobody has written a gradient; run backward'):
        SGD([w], lr=0.1).step()
    with pytest.raises(NotImplementedError):
        step_with(Optimizer([w], lr=0.1), torch.ones(3))
    assert not w.any()


def test_a_missing_gradient_leaves_all_as_it_was():
    has_one, has_none = torch.zeros(3), torch.zeros(2)
    has_one.g = torch.ones(3)
    optimizer = SGD([has_one, has_none], lr=0.1)
    with pytest.raises(RuntimeError, match='parameter 1'):
        optimizer.step()
    assert not has_one.any() and optimizer.steps == 0


# ---- Batches.

@given(st.integers(0, 20), st.integers(1, 25), st.one_of(st.none(), SEEDS))
def test_batches(rows, size, seed):
    "Each row once, beside its target; in order without a generator."
    numbers = torch.arange(rows)
    found = list(batches(numbers, 10 * numbers, size, None if seed is None else same(seed)))
    assert all(10 * inp.tolist()[0] == targ.tolist()[0] and (10 * inp).equal(targ) for inp, targ in found)
    seen = [row for inp, _ in found for row in inp.tolist()]
    assert sorted(seen) == list(range(rows)) and (seed is not None or seen == sorted(seen))
    assert [len(inp) for inp, _ in found] == [size] * (rows // size) + [rows % size] * bool(rows % size)


def test_batches_are_repeatable_and_shuffled():
    numbers = torch.arange(100)
    first, again, other = ([inp.tolist() for inp, _ in batches(numbers, numbers, 100, same(seed))] for seed in (0, 0, 1))
    assert first == again != other and first != [numbers.tolist()]


# ---- The loop.

def small_data(rows=40):
    inp = random(rows, 5)
    targ = inp[:, :3].argmax(1)
    return Data(inp, targ, inp[:7].clone(), targ[:7].clone())


def small_model(seed=0, n_out=3):
    w1, w2 = random(5, 8, seed=seed + 1) / 5 ** 0.5, random(8, n_out, seed=seed + 2) / 8 ** 0.5
    return Model([Lin(w1, torch.zeros(8)), Relu(), Lin(w2, torch.zeros(n_out))], CrossEntropy())


def as_torch(model):
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for theirs, ours in zip((net[0], net[2]), (model.layers[0], model.layers[2])):
            theirs.weight.copy_(ours.w.T), theirs.bias.copy_(ours.b)
    return net


def run(model, optimizer=SGD, data=None, epochs=3, lr=0.1, **options):
    return fit(model, optimizer(model.parameters(), lr), data or small_data(), epochs, batch_size=10, **{'generator': same(), **options})


def train_torch(net, optimizer, clear=True):
    "The losses of three epochs, as `run` trains."
    losses, generator, data = [], same(), small_data()
    for _ in range(3):
        for inp, targ in batches(data.inp, data.targ, 10, generator):
            if clear:
                optimizer.zero_grad()
            loss = F.cross_entropy(net(inp), targ)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize('ours, theirs', [(SGD, torch.optim.SGD), (Adam, torch.optim.Adam)])
def test_fit_is_the_training_of_pytorch(ours, theirs):
    model = small_model()
    net = as_torch(model)
    our_history, their_losses = run(model, ours), train_torch(net, theirs(net.parameters(), lr=0.1))
    assert_close(torch.tensor(our_history.losses), torch.tensor(their_losses), rtol=1e-4, atol=1e-5)
    assert our_history.losses[-1] < our_history.losses[0]
    forgetful = as_torch(small_model())
    assert train_torch(forgetful, theirs(forgetful.parameters(), lr=0.1), clear=False) != pytest.approx(their_losses, rel=1e-2)


def test_history():
    history = run(small_model(), epochs=3)
    assert len(history.losses) == 12 and len(history.epoch_losses) == len(history.valid_losses) == len(history.accuracies) == 3
    assert_close(history.epoch_losses, [sum(history.losses[at:at + 4]) / 4 for at in (0, 4, 8)])
    model, data = small_model(), small_data()
    again = run(model, data=data, epochs=1)
    assert_close(again.valid_losses[0], cross_entropy(model.predict(data.valid_inp), data.valid_targ).item())
    assert again.accuracies[0] == accuracy(model.predict(data.valid_inp), data.valid_targ)


def test_no_epochs():
    model, start = small_model(), small_model()
    assert run(model, epochs=0) == History([], [], [], [])
    assert_close(model.parameters(), start.parameters())


def test_a_learning_rate_that_is_much_too_large():
    with pytest.raises(FloatingPointError, match='the loss of a batch is (nan|inf); try a smaller lr'):
        run(small_model(), lr=1e30)


def test_accuracy():
    assert accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.6, 0.5], [0.3, 0.4]]), torch.tensor([1, 1, 0, 1])) == 0.75


# ---- Data.

def test_digits():
    data = digits()
    assert [len(part) for part in data] == [1438, 1438, 359, 359] and data.targ.dtype == torch.int64
    assert data.inp.mean().abs() < 1e-5 and (data.inp.std() - 1).abs() < 1e-4
    assert data.valid_inp.mean().abs() > 1e-5  # scaled by the training part alone
    assert data.valid_targ[:6].tolist() == [4, 9] * 3 and data.targ[:8].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]


def test_trained_models_go_on_after_a_copy():
    "A copy has weights of its own, and trains as the original would."
    model = small_model()
    run(model, epochs=1)
    twin = copy.deepcopy(model)
    histories = [run(one, epochs=1).losses for one in (model, twin)]
    assert histories[0] == histories[1]
    assert_close(model.parameters(), twin.parameters(), rtol=0, atol=0)
