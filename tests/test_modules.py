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
from backprop_course.toolbox.sanity import hidden_parameters
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


# ---- PyTorch's module without super().__init__().

class Dense(Module):
    def __init__(self, w, b): self.w, self.b = nn.Parameter(w), nn.Parameter(b)
    def forward(self, inp): return inp @ self.w + self.b


class TwoLayers(Module):
    def __init__(self, w1, b1, w2, b2): self.first, self.last = Dense(w1, b1), Dense(w2, b2)
    def forward(self, inp): return self.last(MyRelu.apply(self.first(inp)))


class Mixed(Module):
    "Our modules and PyTorch's, one in the other."
    def __init__(self, n_in=4):
        self.body = nn.Sequential(nn.Linear(n_in, 5), nn.BatchNorm1d(5), Dense(torch.ones(5, 3), torch.zeros(3)))
        self.rest = nn.ModuleList([nn.Linear(3, 3), nn.ModuleDict({'a': nn.Linear(3, 3)})])
        self.register_buffer('mean', torch.ones(3))

    def forward(self, inp):
        return self.rest[1]['a'](self.rest[0](self.body(inp))) - self.mean


class CallsSuper(Module):
    def __init__(self, when):
        if when == 'first':
            super().__init__()
        self.first = nn.Linear(4, 3)
        self.register_buffer('mean', torch.ones(3))
        if when == 'last':
            super().__init__()


def names(module):
    return [name for name, _ in module.named_parameters()]


def test_module():
    own, inp, targ = TwoLayers(*weights()), random(5, 4), random(5)
    assert isinstance(own, nn.Module) and names(own) == ['first.w', 'first.b', 'last.w', 'last.b']
    mse(own(inp), targ).backward()
    expected = by_autograd(lambda *w: mse(lin(relu(lin(inp, *w[:2])), *w[2:]), targ), *weights())
    assert_close([p.grad for p in own.parameters()], list(expected))


def test_without_new_nothing_would_be_registered():
    "What `Module` saves: the same class on `nn.Module` fails at its first assignment."
    class Forgotten(nn.Module):
        def __init__(self): self.first = nn.Linear(2, 2)

    with pytest.raises(AttributeError, match='before Module.__init__'):
        Forgotten()


def test_pytorchs_layers_inside():
    own = Mixed()
    assert names(own) == [f'body.{name}' for name in ('0.weight', '0.bias', '1.weight', '1.bias', '2.w', '2.b')] + [
        f'rest.{name}' for name in ('0.weight', '0.bias', '1.a.weight', '1.a.bias')]
    assert [name for name, _ in own.named_buffers()] == ['mean', 'body.1.running_mean', 'body.1.running_var', 'body.1.num_batches_tracked']
    assert not own.eval().body[1].training and own.train().body[1].training
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1)
    before = [p.detach().clone() for p in own.parameters()]
    own(random(6, 4, dtype=torch.float32)).pow(2).sum().backward()
    optimizer.step()
    assert all(p.grad.shape == p.shape for p in own.parameters()) and any(not torch.equal(p, q) for p, q in zip(own.parameters(), before))


@pytest.mark.parametrize('outer', [lambda own: nn.Sequential(own, nn.ReLU()), lambda own: nn.ModuleList([own])], ids=['Sequential', 'ModuleList'])
def test_inside_pytorchs_containers(outer):
    assert names(outer(Dense(random(3, 2), random(2)))) == ['0.w', '0.b']


def test_state_dict_and_back():
    own, other, inp = Mixed().eval(), Mixed().eval(), random(6, 4, dtype=torch.float32)
    assert not torch.allclose(own(inp), other(inp))
    assert not any(other.load_state_dict(own.state_dict()))
    assert_close(other(inp), own(inp), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match='size mismatch'):
        Mixed(n_in=3).load_state_dict(own.state_dict())


def test_to_another_dtype():
    own = Mixed().to(torch.float64)
    assert {tensor.dtype for tensor in (*own.parameters(), own.mean)} == {torch.float64}
    assert own(random(6, 4)).dtype == torch.float64


def test_hooks():
    own, seen = Mixed(), []
    own.register_forward_hook(lambda module, inputs, out: seen.append(('out', tuple(out.shape))))
    own.rest[0].register_forward_pre_hook(lambda module, inputs: seen.append(('in', tuple(inputs[0].shape))))
    own.register_full_backward_hook(lambda module, grads, grad_outs: seen.append(('back', tuple(grad_outs[0].shape))))
    own(random(6, 4, dtype=torch.float32).requires_grad_()).sum().backward()
    assert seen == [('in', (6, 3)), ('out', (6, 3)), ('back', (6, 3))]


@pytest.mark.parametrize('when', ['first', 'last', 'never'])
def test_subclasses_that_call_super(when):
    own = CallsSuper(when)
    assert names(own) == ['first.weight', 'first.bias'] and list(dict(own.named_buffers())) == ['mean']


def test_subclass_of_a_subclass():
    class Deeper(TwoLayers):
        def __init__(self, *given):
            super().__init__(*given)
            self.scale = nn.Parameter(torch.ones(()))

    assert names(Deeper(*weights())) == ['scale', 'first.w', 'first.b', 'last.w', 'last.b']


def test_together_with_one_of_pytorchs():
    class Row(nn.Sequential, Module): pass

    assert names(Row(nn.Linear(2, 2), Dense(random(2, 2), random(2)))) == ['0.weight', '0.bias', '1.w', '1.b']


def test_arguments_that_no_init_takes():
    class Empty(Module): pass

    assert names(Empty()) == []
    with pytest.raises(TypeError, match='positional'):
        Empty(3)


def test_assigned_anew():
    own = TwoLayers(*weights())
    own.last = own.first
    assert len(list(own.parameters())) == 2
    own.first.w = nn.Parameter(torch.zeros(2))
    assert next(own.parameters()).tolist() == [0, 0]
    del own.first, own.last
    assert names(own) == [] and not hasattr(own, 'first')
    with pytest.raises(TypeError, match='torch.nn.Parameter or None expected'):
        own = Dense(random(3, 1), random(1))
        own.w = own.w - 0.1


@pytest.mark.parametrize('twin', [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=['deepcopy', 'pickle'])
@pytest.mark.parametrize('kind, given', [(TwoLayers, weights()), (Mixed, ()), (CallsSuper, ('last',))], ids=['TwoLayers', 'Mixed', 'CallsSuper'])
def test_twins_of_modules(kind, given, twin):
    own = kind(*given)
    other = twin(own)
    assert names(other) == names(own) and next(other.parameters()) is not next(own.parameters())
    assert_close(other.state_dict(), own.state_dict(), rtol=0, atol=0)


def test_a_plain_list_hides_its_layers_as_in_pytorch():
    own = Dense(random(3, 1), random(1))
    own.layers = [nn.Linear(1, 1)]
    assert names(own) == ['w', 'b'] and list(hidden_parameters(own)) == ['layers[0].weight', 'layers[0].bias']
    own.layers = nn.ModuleList(own.layers)
    assert len(names(own)) == 4 and not hidden_parameters(own)


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
