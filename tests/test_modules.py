"""Layers, models and modules: the gradients are autograd's, and what would be silently wrong is refused."""
import copy
import gc
import pickle
import weakref

import pytest
import torch
from backprop_course.backward import forward_and_backward, relu_backward
from backprop_course.forward import lin, mse, relu
from backprop_course.modules import LayerFunction, Lin, LinearLayer, Model, Module, Mse, MyRelu, Relu, each_once
from backprop_course.toolbox.gradcheck import check_gradient
from backprop_course.toolbox.rules import RULES, Rule
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS
from torch import nn
from torch.testing import assert_close


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def weights(n_in=4, n_hidden=5, seed=0, dtype=torch.float64):
    return [random(*shape, seed=seed + at, dtype=dtype) for at, shape in enumerate([(n_in, n_hidden), (n_hidden,), (n_hidden, 1), (1,)])]


def two_layers(w1, b1, w2, b2, middle=Relu, **options):
    return Model([Lin(w1, b1, **options), middle(), Lin(w2, b2)])


def by_autograd(loss, *tensors):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    return torch.autograd.grad(loss(*leaves), leaves)


# ---- Models.

@given(st.sampled_from([5, 2, 1]), st.sampled_from([4, 1]), st.sampled_from([3, 1]), SEEDS)
def test_model(rows, n_in, n_hidden, seed):
    "Three passes one after the other: the same as autograd each time, and as the functions of lesson 06."
    inp, targ, given_weights = random(rows, n_in, seed=seed), random(rows, seed=seed + 1), weights(n_in, n_hidden, seed + 2)
    expected = by_autograd(lambda inp, w1, b1, w2, b2: mse(lin(relu(lin(inp, w1, b1)), w2, b2), targ), inp, *given_weights)
    model = two_layers(*given_weights)
    for _ in range(3):
        loss = model(inp, targ)
        model.backward()
        for tensor, gradient in zip((inp, *model.parameters()), expected, strict=True):
            assert_close(tensor.g, gradient)
    by_hand = inp.clone(), *(w.clone() for w in given_weights)
    assert loss == forward_and_backward(by_hand[0], targ, *by_hand[1:])
    assert_close([tensor.g for tensor in by_hand], [tensor.g for tensor in (inp, *given_weights)])


@pytest.mark.parametrize('rows, dtype', [(1, torch.float32), (0, torch.float64), (5, torch.bfloat16), (5, torch.float16)])
def test_awkward_batches(rows, dtype):
    model = two_layers(*weights(dtype=dtype))
    inp = random(4, rows, dtype=dtype).T  # not contiguous
    model(inp, random(rows, dtype=dtype))
    model.backward()
    assert all(p.g.shape == p.shape and p.g.dtype == dtype for p in (inp, *model.parameters()))


def test_first_layer_without_gradient_of_the_input():
    inp, model, other = random(5, 4), two_layers(*weights(), needs_inp_grad=False), two_layers(*weights())
    for one in (model, other):
        one(inp if one is model else inp.clone(), random(5))
        one.backward()
    assert inp.g is None
    assert_close([p.g for p in model.parameters()], [p.g for p in other.parameters()])


def test_predict_remembers_nothing():
    model, inp, targ = two_layers(*weights()), random(5, 4), random(5)
    model(inp, targ)
    assert_close(model.predict(inp), lin(relu(lin(inp, *weights()[:2])), *weights()[2:]))
    model.predict(random(3, 4, seed=8))
    model.backward()
    expected = by_autograd(lambda inp, *w: mse(lin(relu(lin(inp, *w[:2])), *w[2:]), targ), inp, *weights())
    assert_close([p.g for p in (inp, *model.parameters())], list(expected))


def test_tied_weights():
    "Their gradient is the sum of two, and they are listed once."
    w, b, last = random(4, 4), random(4, seed=1), weights(seed=2)[2:]
    last[0] = last[0][:4].clone()
    model = Model([Lin(w, b), Relu(), Lin(w, b), Relu(), Lin(*last)])
    inp, targ = random(5, 4, seed=3), random(5, seed=4)
    model(inp, targ)
    model.backward()
    assert [id(p) for p in model.parameters()] == [id(p) for p in (w, b, *last)]
    expected = by_autograd(lambda w, b: mse(lin(relu(lin(relu(lin(inp, w, b)), w, b)), *last), targ), w, b)
    assert_close([w.g, b.g], list(expected))


def test_wrong_bookkeeping_is_seen():
    "A layer that replaces in place of adding gives tied weights another gradient."
    class Replacing(Lin):
        def backward(self):
            self.w.g = self.b.g = None
            super().backward()

    grads = []
    for kind in (Lin, Replacing):
        w, b = random(4, 4), random(4)
        model = Model([kind(w, b), kind(w, b), Lin(random(4, 1), random(1))])
        model(random(5, 4, seed=1), random(5))
        model.backward()
        grads.append(w.g)
    with pytest.raises(AssertionError):
        assert_close(*grads)


def test_one_layer_in_two_places():
    same, (w, b) = Relu(), (random(4, 4), random(4))
    model = Model([Lin(w, b), same, same, Lin(random(4, 1), random(1))])
    model(random(5, 4), random(5))
    with pytest.raises(RuntimeError, match='Relu ran forward 2 times before backward'):
        model.backward()


def test_second_batch_before_backward():
    model, inp, targ = two_layers(*weights()), random(5, 4), random(5)
    model(inp, targ)
    model(random(3, 4), random(3))
    with pytest.raises(RuntimeError, match='ran forward 2 times'):
        model.backward()
    model(inp, targ)  # and then it works again
    model.backward()


def test_backward_twice_or_first():
    model = two_layers(*weights())
    for _ in range(2):
        with pytest.raises(RuntimeError, match='Mse.backward.. needs a forward call before it'):
            model.backward()
        model(random(5, 4), random(5))
        model.backward()


def test_step_between_forward_and_backward():
    model, inp, targ = two_layers(*weights()), random(5, 4), random(5)
    model(inp, targ)
    with torch.no_grad():
        model.layers[0].w *= 0.9
    with pytest.raises(RuntimeError, match='a tensor that Lin used was changed or replaced'):
        model.backward()
    model(inp, targ)
    model.backward()


@pytest.mark.parametrize('fail', [
    lambda model: model(random(5, 4), random(5, 1)), lambda model: model(random(4, 5), random(4)), lambda model: model.predict(random(4, 5)),
    lambda model: model(random(5, 4).float(), random(5))])
def test_a_pass_that_failed_leaves_nothing_behind(fail):
    model, inp, targ = two_layers(*weights()), random(5, 4), random(5)
    with pytest.raises((ValueError, TypeError)):
        fail(model)
    model(inp, targ)
    model.backward()
    expected = by_autograd(lambda inp, *w: mse(lin(relu(lin(inp, *w[:2])), *w[2:]), targ), inp, *weights())
    assert_close([p.g for p in (inp, *model.parameters())], list(expected))


def test_models_are_made_of_our_layers():
    for layers, loss in (([nn.ReLU()], None), ([Relu], None), ([Relu()], mse), ([[Relu()]], None)):
        with pytest.raises(TypeError, match='expects layers made of LayerFunction, got'):
            Model(layers, loss)
    assert isinstance(Model([]).loss, Mse)


@pytest.mark.parametrize('twin', [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=['deepcopy', 'pickle'])
def test_copied_models(twin):
    model, inp, targ = two_layers(*weights()), random(5, 4), random(5)
    model(inp, targ)
    other = twin(model)
    with pytest.raises(RuntimeError, match='needs a forward call'):
        other.backward()
    other(inp.clone(), targ)
    other.backward(), model.backward()
    for ours, theirs in zip(model.parameters(), other.parameters()):
        assert ours is not theirs
        assert_close(ours.g, theirs.g)


def test_models_that_are_thrown_away_hold_no_memory():
    model = two_layers(*weights())
    model(random(5, 4), random(5))
    outputs = [weakref.ref(layer.out) for layer in model.layers]
    assert all(one() is not None for one in outputs)
    del model
    gc.collect()
    assert not any(one() is not None for one in outputs)


def test_lin_refuses_the_bias_of_another_layer():
    with pytest.raises(ValueError, match=r'Lin expects b of shape \(n_out,\), got \(3,\), but n_out is 2 in w'):
        Lin(random(4, 2), random(3))


# ---- Layers.

@pytest.mark.parametrize('layer, inputs', [
    (Relu(), (random(5, 4),)), (Relu(), (random(2, 3, 4),)), (Relu(), (random(0, 4),)), (Mse(), (random(5, 1), random(5, seed=1))),
    (Lin(random(4, 3), random(3)), (random(5, 4),))], ids=lambda value: type(value).__name__ if isinstance(value, LayerFunction) else '')
def test_layers_are_their_rules(layer, inputs):
    out = layer(*inputs)
    grad_out = random(*out.shape, seed=7)
    out.g = grad_out
    layer.backward()
    asked = 1 if isinstance(layer, Mse) else len(inputs)  # targets get none
    expected = by_autograd(lambda *given: (layer.forward(*given, *inputs[asked:]) * grad_out).sum(), *inputs[:asked])
    assert_close([one.g for one in inputs[:asked]], list(expected))
    assert all(one.g is None for one in inputs[asked:])


def scale(inp, factor): return inp * factor


def scale_backward(grad_out, inp, factor): return grad_out * factor, (grad_out * inp).sum(0)


class Scale(LayerFunction):
    "A layer that only names its function, and holds a parameter."
    function = staticmethod(scale)
    def __init__(self, factor): self.factor = factor
    def parameters(self): return [self.factor]


def test_layer_that_names_its_function(monkeypatch):
    monkeypatch.setitem(RULES, scale, Rule(scale, scale_backward))  # for this test alone, as other tests look at all rules
    inp, factor, grad_out = random(5, 4), random(4), random(5, 4, seed=1)
    layer = Scale(factor)
    layer(inp).g = grad_out
    layer.backward()
    expected = by_autograd(lambda inp, factor: (inp * factor * grad_out).sum(), inp, factor)
    assert_close([inp.g, factor.g], list(expected))
    model = Model([layer, Lin(random(4, 1), random(1))])
    assert model.parameters()[0] is factor


def test_functions_need_a_rule():
    class NoRule(LayerFunction): function = staticmethod(torch.floor)

    layer = NoRule()
    layer(random(3)).g = random(3)
    with pytest.raises(LookupError, match='floor has no rule; write one as @rule_for'):
        layer.backward()


def test_what_a_layer_must_fill_in():
    class Unfinished(LayerFunction): pass

    class HalfFinished(LayerFunction):
        def forward(self, inp): return inp * 2

    with pytest.raises(NotImplementedError, match='Unfinished has no forward'):
        Unfinished()(random(3))
    layer = HalfFinished()
    layer(random(3)).g = random(3)
    with pytest.raises(NotImplementedError, match='HalfFinished has no backward_rule'):
        layer.backward()


@pytest.mark.parametrize('rule, error, words', [
    (lambda grad_out, inp, w, b: (grad_out @ w.T, inp.T @ grad_out, grad_out), ValueError, r'Wrong.backward_rule returned a tensor of shape \(5, 4\)'),
    (lambda grad_out, inp, w, b: (grad_out @ w.T, inp.T @ grad_out), RuntimeError, 'returned 2 gradients for 3')])
def test_wrong_rules_are_stopped_at_their_layer(rule, error, words):
    class Wrong(Lin):
        def backward_rule(self, grad_out, inp): return rule(grad_out, inp, self.w, self.b)

    layer, inp = Wrong(random(4, 4), random(4)), random(5, 4)
    layer(inp).g = torch.ones(5, 4, dtype=torch.float64)
    with pytest.raises(error, match=words):
        layer.backward()
    assert inp.g is None and layer.w.g is None


def test_one_layer_that_is_read_by_two():
    below, readers, few = Lin(random(4, 4), random(4)), (Relu(), Relu()), random(5, 4)
    shared = below(few)
    for reader in readers:
        reader(shared).g = torch.ones(5, 4, dtype=torch.float64)
    readers[0].backward()
    with pytest.raises(RuntimeError, match='too early'):
        below.backward()
    readers[1].backward(), below.backward()
    assert_close(below.w.g, few.T @ (2 * (shared > 0).double()))


def test_each_once():
    a, b = random(3), random(3)
    assert [id(one) for one in each_once(iter([b, a, b, a.clone(), a]))][:2] == [id(b), id(a)]
    assert len(each_once([a, a.clone(), a])) == 2  # equal numbers are not the same tensor
    assert each_once([]) == []


# ---- A function of PyTorch's with our rule.

def test_my_relu():
    inp = random(5, 3)
    assert torch.autograd.gradcheck(MyRelu.apply, inp.clone().requires_grad_())
    assert check_gradient(MyRelu.apply, relu_backward, inp)
    leaf = inp.clone().requires_grad_()
    MyRelu.apply(leaf).sum().backward()
    MyRelu.apply(leaf).sum().backward()
    assert_close(leaf.grad, 2 * (inp > 0).double())  # PyTorch adds


def test_it_is_our_rule_that_runs():
    class Doubling(MyRelu):
        @staticmethod
        def backward(ctx, grad_out): return 2 * MyRelu.backward(ctx, grad_out)

    with pytest.raises(RuntimeError, match='Jacobian mismatch'):
        torch.autograd.gradcheck(Doubling.apply, random(5, 3).requires_grad_())


# ---- A module that finds its parameters.

class Dense(Module):
    def __init__(self, w, b): self.w, self.b = nn.Parameter(w), nn.Parameter(b)
    def forward(self, inp): return inp @ self.w + self.b


class TwoLayers(Module):
    def __init__(self, w1, b1, w2, b2): self.first, self.last = Dense(w1, b1), Dense(w2, b2)
    def forward(self, inp): return self.last(MyRelu.apply(self.first(inp)))


def names(module):
    return [name for name, _ in module.named_parameters()]


def test_module():
    own, inp, targ = TwoLayers(*weights()), random(5, 4), random(5)
    assert names(own) == ['first.w', 'first.b', 'last.w', 'last.b']
    mse(own(inp), targ).backward()
    expected = by_autograd(lambda *w: mse(lin(relu(lin(inp, *w[:2])), *w[2:]), targ), *weights())
    assert_close([p.grad for p in own.parameters()], list(expected))


def test_assigned_anew():
    own = TwoLayers(*weights())
    own.last = own.first
    assert len(own.parameters()) == 2 and names(own) == ['first.w', 'first.b', 'last.w', 'last.b']
    own.last = 'nothing'
    assert names(own) == ['first.w', 'first.b']
    own.first.w = nn.Parameter(torch.zeros(2))
    assert own.parameters()[1].tolist() == [0, 0]
    del own.first
    assert not own.parameters() and not hasattr(own, 'first')


def test_a_module_in_the_place_of_a_parameter():
    own = Dense(random(3), random(3))
    own.w = Dense(random(2), random(2))
    assert names(own) == ['b', 'w.w', 'w.b']


@pytest.mark.parametrize('twin', [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=['deepcopy', 'pickle'])
def test_twins_of_modules(twin):
    own = TwoLayers(*weights())
    other = twin(own)
    assert names(other) == names(own) and other.parameters()[0] is other.first.w is not own.first.w
    assert_close(other(random(5, 4)), own(random(5, 4)))


def hide(value):
    own = Dense(random(3, 1), random(1))
    own.layers = value


@pytest.mark.parametrize('value, words', [
    ([nn.Parameter(random(3))], 'Dense.layers: what is in a list is not found; assign each parameter and module'),
    ((Dense(random(1), random(1)),), 'what is in a tuple'), ({'a': Relu()}, 'what is in a dict'), ({nn.Parameter(random(3))}, 'what is in a set'),
    ([1, [{'deep': (nn.Linear(1, 1),)}]], 'what is in a list'),
    (nn.Linear(1, 1), 'the parameters of a Linear are not found; use a Module'), (Relu(), 'the parameters of a Relu are not found')])
def test_what_would_be_hidden_is_refused(value, words):
    with pytest.raises(TypeError, match=words):
        hide(value)


def test_what_hides_nothing_is_not_refused():
    for value in ([1, 2], {'name': [torch.ones(3)]}, torch.ones(3), None, 'text', []):
        hide(value)


def test_plain_tensor_in_the_place_of_a_parameter():
    own = Dense(random(3, 1), random(1))
    with pytest.raises(TypeError, match=r'Dense.w is a parameter, got a plain tensor for it; try nn.Parameter\(value\)'):
        own.w = own.w - 0.1
    assert own.parameters()[0] is own.w
    own.w = None  # on purpose
    assert names(own) == ['b']


def test_list_that_grows_later():
    own = Dense(random(3, 1), random(1))
    own.later = []
    own.later.append(nn.Parameter(random(3)))
    with pytest.raises(TypeError, match='Dense.later: what is in a list'):
        own.parameters()


# ---- nn.Linear from scratch.

@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([(5,), (), (0,), (2, 3)]), SEEDS)
def test_linear_layer(n_in, n_out, shape, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        original = nn.Linear(n_in, n_out)
        torch.manual_seed(seed)
        rebuilt = LinearLayer(n_in, n_out)
    assert_close(rebuilt.state_dict(), original.state_dict(), rtol=0, atol=0)
    inp = random(*shape, n_in, seed=seed, dtype=torch.float32)
    assert_close(rebuilt(inp), original(inp))
    for layer in (rebuilt, original):
        layer(inp).pow(2).sum().backward()
    assert_close([p.grad for p in rebuilt.parameters()], [p.grad for p in original.parameters()])


def test_linear_layer_from_a_generator():
    first, again = (LinearLayer(3, 2, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert_close(first.state_dict(), again.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize('call, error, words', [
    (lambda: LinearLayer(0, 5), ValueError, 'sizes of at least 1, got n_in=0, n_out=5'), (lambda: LinearLayer(3, 2.0), ValueError, 'n_out=2.0'),
    (lambda: LinearLayer(3, 2)(torch.ones(3, 4)), ValueError, r'expects inp of shape \(..., 3\), got \(3, 4\)'),
    (lambda: LinearLayer(3, 2)(torch.tensor(1.0)), ValueError, r'got \(\)'),
    (lambda: LinearLayer(3, 2)(torch.ones(4, 3, dtype=torch.int64)), TypeError, 'floating-point')])
def test_what_linear_layer_refuses(call, error, words):
    with pytest.raises(error, match=words):
        call()
