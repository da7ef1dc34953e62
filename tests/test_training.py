"""Losses and optimisers are PyTorch's to the last digits, training refuses what would go wrong silently, and files say what is wrong with them."""
import copy
import gzip
import math
import sys

import matplotlib.pyplot as plt
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from backprop_course.modules import Lin, Model, Relu
from backprop_course.toolbox.engine import Variable
from backprop_course.training import (SGD, Adam, AutogradModel, CrossEntropy, Data, History, Optimizer, accuracy, batches, confusion,
                                      cross_entropy, cross_entropy_backward, digits, fit, log_softmax, log_softmax_backward, log_sum_exp,
                                      log_sum_exp_backward, mnist, plot_confusion, plot_history, plot_worst, read_idx)
from hypothesis import event, given
from hypothesis import strategies as st
from strategies import SEEDS
from torch import nn
from torch.testing import assert_close


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close('all')


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
    grad = log_sum_exp_backward(upstream[:, 0], inp)
    assert_close(grad, upstream[:, :1] * inp.softmax(1), rtol=1e-9, atol=1e-15)
    if inp.abs().sum() < 1e4:  # of numbers near 1e15 torch's own gradient is off by 5%
        assert_close(grad, torch_gradient(lambda x: x.logsumexp(1), upstream[:, 0], inp))


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


LOGITS = torch.ones(4, 10)
WRONG_LABELS = [
    (torch.tensor([1., 2., 3., 4.]), TypeError, 'whole numbers, the classes, in targ, got torch.float32; try targ.long()'),
    ([1, 2, 3, 4], TypeError, 'got list; try torch.tensor(targ)'),
    (torch.tensor([True] * 4), TypeError, 'got torch.bool'),
    (torch.tensor([[1], [2], [3], [4]]), ValueError, 'targ of shape (4,), a class for each row, got (4, 1); try targ.squeeze(-1)'),
    (torch.eye(10, dtype=torch.int64)[:4], ValueError, 'got (4, 10); try targ.argmax(1)'),
    (torch.tensor([1, 2, 3]), ValueError, 'got (3,)'),
    (torch.tensor([1, 2, 3, 10]), ValueError, 'classes from 0 to 9, got 1 to 10'),
    (torch.tensor([-1, 2, 3, 4]), ValueError, 'got -1 to 4'),
]


@pytest.mark.parametrize('targ, error, words', WRONG_LABELS)
def test_labels_that_are_refused(targ, error, words):
    calls = [cross_entropy, lambda inp, targ: cross_entropy_backward(torch.tensor(1.0), inp, targ), accuracy, confusion]
    for call, name in zip(calls, ('cross_entropy', 'cross_entropy_backward', 'accuracy', 'confusion')):
        with pytest.raises(error) as refused:
            call(LOGITS, targ)
        assert str(refused.value).startswith(f'{name} expects') and words in str(refused.value)


@pytest.mark.parametrize('call', [
    lambda: log_softmax(torch.ones(3)), lambda: log_sum_exp(torch.ones(2, 3, 4)), lambda: log_softmax_backward(torch.ones(2, 3), torch.ones(3, 2)),
    lambda: log_sum_exp_backward(torch.ones(3, 1), torch.ones(3, 2)), lambda: log_softmax(torch.ones(3, 2, dtype=torch.int64)),
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


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_first_step_of_adam_is_lr(dtype):
    "Also in float16, where the square of a small gradient is 0."
    w = torch.zeros(3, dtype=dtype)
    step_with(Adam([w], lr=0.01), torch.tensor([1e-4, 0.0, -1.0], dtype=dtype))
    assert_close(w, torch.tensor([-0.01, 0.0, 0.01], dtype=dtype), rtol=0.01, atol=0)


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


@pytest.mark.parametrize('call, error, words', [
    (lambda w: SGD([], lr=0.1), ValueError, 'SGD expects parameters, got none; is a layer not registered?'),
    (lambda w: SGD(w, lr=0.1), TypeError, r'got one tensor; try \[parameter\]'),
    (lambda w: SGD([w.long()], lr=0.1), TypeError, 'parameters of floating-point numbers, got torch.int64'),
    (lambda w: SGD([1.0], lr=0.1), TypeError, 'got float'),
    (lambda w: Adam([w], lr=-1), ValueError, 'Adam expects lr from 0 to below inf, got -1'),
    (lambda w: SGD([w], lr=math.nan), ValueError, 'expects lr'),
    (lambda w: SGD([w], lr='0.1'), ValueError, "got '0.1'"),
    (lambda w: SGD([w], lr=0.1, momentum=1.0), ValueError, 'momentum from 0 to below 1, got 1.0'),
    (lambda w: Adam([w], betas=(0.9, 1.0)), ValueError, 'beta2'),
    (lambda w: Adam([w], eps=-1e-8), ValueError, 'eps'),
    (lambda w: SGD([w], lr=0.1).step(), RuntimeError, r'SGD.step\(\), parameter 0 of shape \(3,\): nobody has written a gradient; run backward'),
    (lambda w: step_with(SGD([w], lr=0.1), torch.ones(1)), ValueError, r'expects a gradient of shape \(3,\), got \(1,\)'),
    (lambda w: step_with(Optimizer([w], lr=0.1), torch.ones(3)), NotImplementedError, 'Optimizer has no direction')])
def test_what_an_optimiser_refuses(call, error, words):
    w = torch.zeros(3)
    with pytest.raises(error, match=words):
        call(w)
    assert not w.any()


def test_two_gradients_are_refused():
    leaf = torch.zeros(3, requires_grad=True)
    leaf.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match=r'both .g and .grad are set; run zero_grad\(\) before'):
        step_with(SGD([leaf], lr=0.1), torch.ones(3))


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


@pytest.mark.parametrize('arguments, words', [
    ((torch.ones(3), torch.ones(2), 1, None), 'a target for each input, got 2 for 3'),
    ((torch.ones(3), torch.ones(3), 0, None), 'a size of at least 1, got 0'),
    ((torch.ones(3), torch.ones(3), 1.5, None), 'got 1.5')])
def test_batches_that_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        batches(*arguments)  # at once, not at the first batch


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
    return fit(model, optimizer(model.parameters(), lr), data or small_data(), epochs, batch_size=10,
               **{'generator': same(), 'progress': False, **options})


@pytest.mark.parametrize('ours, theirs', [(SGD, torch.optim.SGD), (Adam, torch.optim.Adam)])
def test_fit_is_the_training_of_pytorch(ours, theirs):
    model = small_model()
    net = as_torch(model)
    our_history, their_history = run(model, ours), fit(AutogradModel(net, F.cross_entropy), theirs(net.parameters(), lr=0.1), small_data(), 3,
                                                       batch_size=10, generator=same(), progress=False)
    assert_close(torch.tensor(our_history.losses), torch.tensor(their_history.losses), rtol=1e-4, atol=1e-5)
    assert our_history.accuracies == their_history.accuracies
    assert our_history.losses[-1] < our_history.losses[0]


def test_history():
    history = run(small_model(), epochs=3)
    assert len(history.losses) == 12 and history.ends == [4, 8, 12] and len(history.valid_losses) == len(history.accuracies) == 3
    assert_close(history.epoch_losses(), [sum(history.losses[at:at + 4]) / 4 for at in (0, 4, 8)])
    model, data = small_model(), small_data()
    again = run(model, data=data, epochs=1)
    assert_close(again.valid_losses[0], cross_entropy(model.predict(data.valid_inp), data.valid_targ).item())
    assert again.accuracies[0] == accuracy(model.predict(data.valid_inp), data.valid_targ)


def test_an_epoch_that_broke_off_is_left_out():
    history = History(losses=[1.0, 3.0])
    assert history.validate(2.0, 0.5) == 'loss 2.000, accuracy 50.0%'
    history.losses.append(9.0)
    assert history.epoch_losses() == [2.0]


def test_no_epochs():
    model, start = small_model(), small_model()
    assert run(model, epochs=0) == History()
    assert_close(model.parameters(), start.parameters())


@pytest.mark.parametrize('change, error, words', [
    ({'epochs': -1}, ValueError, 'whole number of epochs, 0 or more, got -1'),
    ({'epochs': 1.5}, ValueError, 'got 1.5'),
    ({'data': small_data()._replace(valid_inp=torch.ones(0, 5), valid_targ=torch.tensor([], dtype=torch.int64))}, ValueError,
     'rows in both parts, got 40 and 0'),
    ({'data': small_data()._replace(inp=torch.ones(0, 5))}, ValueError, 'got 0 and 7'),
    ({'data': small_data()._replace(valid_targ=torch.ones(7))}, TypeError, 'fit expects a tensor of whole numbers'),
    ({'data': small_data()._replace(valid_inp=torch.ones(7, 4))}, ValueError, 'n_in is 4'),
    ({'data': small_data()._replace(targ=torch.zeros(3, dtype=torch.int64))}, ValueError, 'a target for each input, got 3 for 40'),
    ({'data': small_data()._replace(targ=torch.full((40,), 3))}, ValueError, 'classes from 0 to 2, got 3 to 3')])
def test_what_fit_refuses(change, error, words):
    "Before a single weight has changed."
    model, start = small_model(), small_model()
    with pytest.raises(error, match=words):
        run(model, **change)
    assert_close(model.parameters(), start.parameters())


def test_a_learning_rate_that_is_much_too_large():
    with pytest.raises(FloatingPointError, match='the loss of step .* is (nan|inf); try a smaller lr'):
        run(small_model(), lr=1e30)
    with pytest.raises(FloatingPointError, match='the loss of the validation data is'):
        one_batch = small_data()._replace(inp=small_data().inp[:10], targ=small_data().targ[:10])
        run(small_model(), lr=1e38, epochs=1, data=one_batch)


def test_the_error_has_the_history():
    data = small_data()
    data.inp[25, 1] = torch.nan  # in the third batch
    with pytest.raises(FloatingPointError, match='the loss of step 3 is nan') as stopped:
        run(small_model(), data=data, generator=None)
    assert len(stopped.value.history.losses) == 2 and stopped.value.history.epoch_losses() == []


def test_gradients_are_cleared_by_fit():
    "With PyTorch's optimiser, which adds; a wrong loop, without `zero_grad`, is seen."
    class Forgetful(torch.optim.SGD):
        def zero_grad(self): pass

    losses = []
    for kind in (torch.optim.SGD, Forgetful):
        net = as_torch(small_model())
        losses.append(fit(AutogradModel(net, F.cross_entropy), kind(net.parameters(), lr=0.1), small_data(), 2, batch_size=10,
                          generator=same(), progress=False).losses)
    ours = run(small_model(), epochs=2).losses
    assert_close(losses[0], ours, rtol=1e-4, atol=1e-5)
    assert abs(losses[1][-1] - ours[-1]) > 1e-3


def test_progress(capsys, monkeypatch):
    run(small_model(), epochs=2, progress=True)
    said = capsys.readouterr().err
    assert '2/2' in said and 'accuracy' in said
    monkeypatch.setitem(sys.modules, 'tqdm', None)
    run(small_model(), epochs=2, progress=True)
    assert capsys.readouterr().out.count('accuracy') == 2
    run(small_model(), epochs=2)
    assert capsys.readouterr() == ('', '')


def test_predict_of_autograd_models_is_evaluation():
    net = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.BatchNorm1d(4).eval())
    model, inp = AutogradModel(net, F.cross_entropy), random(6, 5)
    out = model.predict(inp)
    assert_close(out, net[2](net[0](inp)).detach())
    assert not out.requires_grad and [part.training for part in net] == [True, True, False]
    with pytest.raises(RuntimeError):
        model.predict(random(6, 4))
    assert [part.training for part in net] == [True, True, False]  # also after a failure


# ---- Looking at the result.

def test_accuracy_and_confusion():
    out, targ = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.6, 0.5], [0.3, 0.4]]), torch.tensor([1, 1, 0, 1])
    assert accuracy(out, targ) == 0.75
    assert confusion(out, targ).tolist() == [[1, 0], [1, 2]]
    assert confusion(out[:0], targ[:0]).tolist() == [[0, 0], [0, 0]]


@given(SEEDS, st.integers(0, 30), st.integers(1, 6))
def test_confusion_adds_up(seed, rows, n_classes):
    out, targ = random(rows, n_classes, seed=seed), torch.randint(n_classes, (rows,), generator=same(seed))
    counts = confusion(out, targ)
    assert counts.sum(1).tolist() == targ.bincount(minlength=n_classes).tolist()
    assert counts.sum(0).tolist() == out.argmax(1).bincount(minlength=n_classes).tolist()
    if rows:
        assert_close(counts.diag().sum().item() / rows, accuracy(out, targ))


def test_rows_with_nan_have_no_answer():
    out = random(3, 10)
    out[1, 4] = torch.nan
    assert out.argmax(1)[1] == 4  # torch gives one all the same
    for look in (accuracy, confusion, lambda *rows: plot_worst(torch.ones(3, 64), *rows)):
        with pytest.raises(ValueError, match='got nan in 1 of 3 rows; look for inf or nan'):
            look(out, torch.tensor([1, 2, 3]))


def test_plots():
    history = run(small_model(), epochs=3)
    left, right = plot_history(history)
    assert_close([line.get_ydata().tolist() for line in left.lines], [history.epoch_losses(), history.valid_losses])
    assert_close(right.lines[0].get_ydata().tolist(), [100 * (1 - one) for one in history.accuracies])
    axes = plt.subplots(1, 2)[1]
    assert plot_history(history, axes) is axes
    with pytest.raises(ValueError, match='at least one epoch'):
        plot_history(History())

    ax = plot_confusion(torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.6, 0.5], [0.3, 0.4]]), torch.tensor([1, 1, 0, 1]))
    texts = {text.get_position(): (text.get_text(), text.get_weight()) for text in ax.texts}
    assert texts == {(0, 0): ('1', 'normal'), (0, 1): ('1', 'bold'), (1, 1): ('2', 'normal')}
    assert plot_confusion(random(4, 3), torch.tensor([0, 1, 2, 0]), plt.subplots()[1])


def test_plot_worst():
    out, targ = random(20, 10), torch.arange(20) % 10
    pictures = torch.arange(20.0)[:, None].expand(20, 64)
    worst = F.cross_entropy(out, targ, reduction='none').argsort(descending=True)[:3]
    shown = plot_worst(pictures, out, targ, count=3)
    assert [ax.images[0].get_array()[0, 0] for ax in shown] == worst.tolist()
    for ax, row in zip(shown, worst):
        answer = out[row].argmax().item()
        assert ax.get_title() == (f'{targ[row]}, right' if answer == targ[row] else f'{targ[row]}, not {answer}')
    assert len(plot_worst(pictures[:2].view(2, 8, 8), out[:2], targ[:2])) == 2  # fewer than eight
    for dtype in (torch.uint8, torch.bfloat16, torch.float64):
        assert plot_worst(pictures.to(dtype), out, targ, count=1)[0].images[0].get_array().shape == (8, 8)


@pytest.mark.parametrize('pictures, count, error, words', [
    (torch.ones(4, 60), 8, ValueError, 'a square as a row, got .4, 60.'), (torch.ones(3, 64), 8, ValueError, 'each of the 4 rows'),
    (torch.ones(4, 64), 0, ValueError, 'a count of at least 1, got 0'), (torch.ones(4, 64).numpy(), 8, TypeError, 'got ndarray; try torch.as_tensor'),
    (torch.tensor(1.0), 8, ValueError, r'got \(\)')])
def test_pictures_that_are_refused(pictures, count, error, words):
    with pytest.raises(error, match=words):
        plot_worst(pictures, random(4, 10), torch.tensor([1, 2, 3, 4]), count=count)


# ---- Data.

def test_digits():
    data = digits()
    assert [len(part) for part in data] == [1438, 1438, 359, 359] and data.targ.dtype == torch.int64
    assert data.inp.mean().abs() < 1e-5 and (data.inp.std() - 1).abs() < 1e-4
    assert data.valid_inp.mean().abs() > 1e-5  # scaled by the training part alone
    assert data.valid_targ[:6].tolist() == [4, 9] * 3 and data.targ[:8].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ImportError, match='digits needs scikit-learn; try: pip install scikit-learn'):
        digits()


TRAIN, TRAIN_LABELS, TEST, TEST_LABELS = NAMES = ['train-images-idx3-ubyte', 'train-labels-idx1-ubyte',
                                                  't10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte']


def idx(content):
    return bytes([0, 0, 8, content.ndim]) + b''.join(size.to_bytes(4, 'big') for size in content.shape) + content.numpy().tobytes()


@pytest.fixture
def contents():
    drawn = same()
    return [torch.randint(most, shape, generator=drawn, dtype=torch.uint8)
            for most, shape in ((256, (6, 28, 28)), (10, (6,)), (256, (4, 28, 28)), (10, (4,)))]


@pytest.fixture
def folder(tmp_path, contents):
    for name, content in zip(NAMES, contents):
        (tmp_path / name).write_bytes(idx(content))
    return tmp_path


def pack(folder, name):
    path = folder / name
    path.with_name(f'{name}.gz').write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return path.with_name(f'{name}.gz')


def test_mnist(folder, contents):
    data = mnist(str(folder))
    raw = contents[0].float()
    assert_close(data.inp, ((raw - raw.mean()) / raw.std()).flatten(1))
    assert_close(data.valid_inp, ((contents[2].float() - raw.mean()) / raw.std()).flatten(1))
    assert data.targ.equal(contents[1].long()) and data.valid_targ.equal(contents[3].long())


def test_packed_and_spelled_otherwise(folder, contents):
    pack(folder, TRAIN)
    (folder / TEST).rename(folder / TEST.replace('-idx', '.idx'))
    packed = pack(folder, TEST_LABELS)
    packed.rename(folder / TEST_LABELS)  # packed, and its name does not say so
    (folder / TRAIN_LABELS).rename(folder / f'{TRAIN_LABELS}.gz')  # and the other way round
    for name, content in zip(NAMES, contents):
        assert read_idx(folder, name, content.ndim).equal(content)
    assert len(mnist(folder).inp) == 6


BREAKS = {
    'cut off': (TRAIN, lambda path, content: path.write_bytes(idx(content)[:-100]),
                r'train-images-idx3-ubyte is truncated, or another file: expected 4,704 bytes for \(6, 28, 28\), got 4,604; get it again'),
    'cut off in the header': (TRAIN, lambda path, content: path.write_bytes(idx(content)[:10]), 'is truncated'),
    'too long': (TEST_LABELS, lambda path, content: path.write_bytes(idx(content) + b'\0'), r'expected 4 bytes for \(4,\), got 5'),
    'a header that promises too much': (TEST_LABELS, lambda path, content: path.write_bytes(b'\0\0\x08\x01\xff\xff\xff\xff' + bytes(4)),
                                        'expected 4,294,967,295 bytes'),
    'nothing in it': (TRAIN, lambda path, content: path.write_bytes(b''), 'is no IDX file of pictures.*got nothing'),
    'no rows': (TRAIN, lambda path, content: path.write_bytes(idx(content[:0])), r'expected 0 bytes for \(0, 28, 28\)'),
    'a page of the web': (TEST, lambda path, content: path.write_bytes(b'<html>'), 'is no IDX file of pictures: expected the bytes 00 00 08 03'),
    'swapped': (TRAIN, lambda path, content: path.write_bytes((path.parent / TRAIN_LABELS).read_bytes()), 'got 00 00 08 01; have two files been swapped'),
    'swapped, too': (TRAIN_LABELS, lambda path, content: path.write_bytes((path.parent / TRAIN).read_bytes()), 'no IDX file of labels.*swapped'),
    'labels of the other part': (TRAIN_LABELS, lambda path, content: path.write_bytes((path.parent / TEST_LABELS).read_bytes()),
                                 'train-images has 6 pictures and train-labels 4 labels; they do not belong together'),
    'packed twice': (TRAIN, lambda path, content: path.write_bytes(gzip.compress(gzip.compress(idx(content)))), 'got 1f 8b 08 00'),
    'packed, and the download broke off': (TRAIN, lambda path, content: path.write_bytes(gzip.compress(idx(content))[:200]), 'truncated or damaged'),
    'packed, and a byte is wrong': (TRAIN, lambda path, content: path.write_bytes(gzip.compress(idx(content))[:-8] + bytes(8)), 'truncated or damaged'),
}


@pytest.mark.parametrize('name, spoil, words', BREAKS.values(), ids=BREAKS)
def test_broken_files(folder, contents, name, spoil, words):
    spoil(folder / name, contents[NAMES.index(name)])
    with pytest.raises(ValueError, match=words) as refused:
        mnist(folder)
    assert name in str(refused.value) or 'belong together' in words


def test_missing_file(folder):
    (folder / TEST_LABELS).unlink()
    with pytest.raises(FileNotFoundError, match=f'mnist expects {TEST_LABELS} or {TEST_LABELS}.gz in .*, got neither; torchvision'):
        mnist(folder)


# ---- Saved and loaded.

def test_saved_and_loaded(tmp_path):
    "As the lesson does it: bit by bit the same, and another model's file is refused."
    net, fresh = as_torch(small_model()), as_torch(small_model(seed=5))
    safetensors.torch.save_model(net, tmp_path / 'net.safetensors')
    safetensors.torch.load_model(fresh, tmp_path / 'net.safetensors')
    assert_close(fresh.state_dict(), net.state_dict(), rtol=0, atol=0)
    for other in (nn.Sequential(nn.Linear(5, 8)), nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 3))):
        with pytest.raises(RuntimeError):
            safetensors.torch.load_model(other, tmp_path / 'net.safetensors')


def test_trained_models_go_on_after_a_copy():
    "A copy has weights of its own, and trains as the original would."
    model = small_model()
    run(model, epochs=1)
    twin = copy.deepcopy(model)
    histories = [run(one, epochs=1).losses for one in (model, twin)]
    assert histories[0] == histories[1]
    assert_close(model.parameters(), twin.parameters(), rtol=0, atol=0)
