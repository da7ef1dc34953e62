"""What the recorder must not disturb, and what it must see: cases that would interrupt the lesson."""
import copy
import pickle
import threading

import pytest
import torch
from backprop_course.backward import lin_grad, mse_grad, relu_grad
from backprop_course.forward import lin, mse, relu
from backprop_course.modules import LayerFunction, Lin, Model, Mse, Relu
from backprop_course.toolbox.tracing import trace_backward
from torch import Tensor

INP, TARG = torch.tensor([[1., 2.], [3., -1.]]), torch.tensor([1., 2.])


def parameters():
    w1, b1 = torch.tensor([[1., -1., 2.], [0., 1., 1.]]), torch.tensor([0., 1., -1.])
    return w1, b1, torch.tensor([[1.], [2.], [-1.]]), torch.ones(1)


def model(middle=None, **layers):
    w1, b1, w2, b2 = parameters()
    return Model([Lin(w1, b1), middle or Relu(), Lin(w2, b2)], **layers)


def traced(own, **options):
    return trace_backward(own, INP.clone(), TARG.clone(), **options)


def faults(trace):
    return [(fault.step, fault.kind) for fault in trace.faults]


class LinByHand:
    def __init__(self, w, b): self.w, self.b = w, b

    def __call__(self, inp):
        self.inp, self.out = inp, lin(inp, self.w, self.b)
        return self.out

    def backward(self): lin_grad(self.inp, self.out, self.w, self.b)


class ReluByHand:
    def __call__(self, inp):
        self.inp, self.out = inp, relu(inp)
        return self.out

    def backward(self): relu_grad(self.inp, self.out)


class MseByHand:
    def __call__(self, inp, targ):
        self.inp, self.targ, self.out = inp, targ, mse(inp, targ)
        return self.out

    def backward(self): mse_grad(self.inp, self.targ)


class ModelByHand:
    def __init__(self, *layers): self.layers, self.loss = layers, MseByHand()

    def __call__(self, inp, targ):
        for layer in self.layers:
            inp = layer(inp)
        return self.loss(inp, targ)

    def backward(self):
        for layer in (self.loss, *reversed(self.layers)):
            layer.backward()


@pytest.fixture(autouse=True)
def nothing_left():
    "After each test: the classes are as they were, and the recorder is free."
    classes = Tensor, Lin, Relu, Mse, LayerFunction
    before = [(owner, name, vars(owner).get(name)) for owner in classes for name in ('g', '__call__', 'backward')]
    yield
    assert all(vars(owner).get(name) is had for owner, name, had in before)
    assert not hasattr(Tensor, 'g') and not traced(model()).faults


# ---- The run is the same with and without the recorder

def test_layers_that_look_at_their_class():
    made = []

    class Counted(LayerFunction):
        calls = 0

        def __init_subclass__(cls): made.append(cls)

        def forward(self, inp):
            assert type(self) is Counted and copy.deepcopy(self).__class__ is Counted
            type(self).calls += 1
            return inp * Counted.calls

        def backward_rule(self, grad_out, inp): return grad_out * Counted.calls

    trace = traced(model(Counted()))
    assert Counted.calls == 1 and not made and not trace.faults and trace.steps[1].layer.startswith('C: ')


def test_a_copy_of_a_layer_outlives_the_trace():
    class Copies(Relu):
        def forward(self, inp):
            self.copy = copy.copy(self)
            return super().forward(inp)

    own = model(Copies())
    assert not traced(own).faults and len(traced(own).steps) == 8
    assert own.layers[1].copy(INP).shape == INP.shape and '__call__' not in vars(Copies)


def test_two_classes_one_derived_from_the_other():
    class Derived(Relu):
        def backward(self): super().backward()

    w1, b1, w2, b2 = parameters()
    trace = traced(Model([Lin(w1, b1), Relu(), Derived(), Lin(w2, b2)]))
    assert [step.layer.split(':')[0] for step in trace.steps] == ['L1', 'R', 'D', 'L2', 'M', 'M', 'L2', 'D', 'R', 'L1']
    assert 'backward' in vars(Derived) and Derived.backward.__qualname__.endswith('Derived.backward')


def test_a_layer_of_no_model_is_left_alone():
    class Holds(Relu):
        def __init__(self): self.other = Relu()
        def forward(self, inp): return self.other(inp.clone())

    assert len(traced(model(Holds())).steps) == 8

    class Extra(Model):
        def __call__(self, inp, targ): return super().__call__(Relu()(inp), targ)

    assert len(traced(Extra(model().layers)).steps) == 8


def test_a_default_of_the_learners_is_put_back():
    class Asks(Relu):
        def forward(self, inp):
            assert inp.clone().g is None
            return super().forward(inp)

    Tensor.g = None
    try:
        trace = traced(model(Asks()))
        assert len(trace.steps) == 8 and not trace.faults and vars(Tensor)['g'] is None
    finally:
        del Tensor.g


def test_interrupted():
    class Interrupted(Relu):
        def backward_rule(self, grad_out, inp): raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        traced(model(Interrupted()), raises=False)
    assert len(caught.value.trace.steps) == 7


def test_a_second_recorder_is_refused():
    class TracesInside(Relu):
        def forward(self, inp): return traced(model()) and inp

    with pytest.raises(RuntimeError, match='running already'):
        traced(model(TracesInside()))


def test_layers_in_another_thread():
    class Elsewhere(Model):
        def __call__(self, inp, targ):
            thread = threading.Thread(target=super().__call__, args=(inp, targ))
            thread.start(), thread.join()

    own = Elsewhere(model().layers)
    with pytest.raises(RuntimeError, match='saw no layer run in this thread'):
        traced(own)
    Model.__call__(own, INP.clone(), TARG), own.backward()  # it can be used again


# ---- No false alarm, and none missed

class Keeps(LinByHand):
    "Adds by hand, in a way that each test gives it."
    def __init__(self, w, b, add): self.w, self.b, self.add = w, b, add

    def backward(self):
        out_g, w, add = self.out.g, self.w, self.add
        self.inp.g, self.b.g = out_g @ w.T, out_g.sum(0)
        add(w, self.inp.T @ out_g)


def shared(add):
    "Two layers with the same weights; the second to run backward is step 9."
    w1, b1, w2, b2 = parameters()
    w = torch.eye(3)
    return ModelByHand(LinByHand(w1, b1), Keeps(w, torch.zeros(3), add), Keeps(w, torch.zeros(3), add), LinByHand(w2, b2))


def adds_to_detached(w, d): w.g = d if getattr(w, 'g', None) is None else w.g.detach().clone() + d


def adds_in_place(w, d):
    if getattr(w, 'g', None) is None:
        w.g = torch.zeros_like(w)
    w.g += d


def copies_over(w, d):
    if getattr(w, 'g', None) is None:
        w.g = torch.zeros_like(w)
    w.g.copy_(d)


def zeroes_first(w, d):
    if getattr(w, 'g', None) is not None:
        w.g.zero_()
    adds_in_place(w, d)


def throws_away(w, d): w.g = d


def writes_twice(w, d):
    for _ in range(20):
        d = d * 1  # objects that come and go: a new one may get the `id` of an old one
    w.g = d
    w.g = torch.ones(3, 3)


def fills_what_it_made(w, d):
    if getattr(w, 'g', None) is None:
        w.g = torch.full_like(w, 7.)
        w.g.copy_(d)
    else:
        w.g += d


@pytest.mark.parametrize('add', [adds_to_detached, adds_in_place, fills_what_it_made])
def test_added_to(add):
    assert not traced(shared(add)).faults


@pytest.mark.parametrize('add', [copies_over, zeroes_first, throws_away])
def test_overwritten(add):
    assert faults(traced(shared(add))) == [(9, 'overwritten')]


def test_overwritten_in_one_step():
    assert faults(traced(shared(writes_twice))) == [(8, 'overwritten'), (9, 'overwritten'), (9, 'overwritten')]


@pytest.mark.parametrize('add, expected', [(adds_in_place, [(6, 'stale')]), (zeroes_first, []), (copies_over, [])])
def test_left_from_an_earlier_run(add, expected):
    w1, b1, w2, b2 = parameters()
    own = ModelByHand(Keeps(w1, b1, add), ReluByHand(), LinByHand(w2, b2))
    assert not traced(own).faults
    assert [kind for _, kind in faults(traced(own))] == [kind for _, kind in expected]


def test_zeros_are_not_stale():
    own = shared(adds_in_place)
    own.layers[1].w.g = torch.zeros(3, 3)
    assert not traced(own).faults
    own.layers[1].w.g.zero_()
    assert not traced(own).faults


def test_phase_is_that_of_the_method():
    class Twice(Model):
        def __call__(self, inp, targ):
            super().__call__(inp, targ), super().backward()
            return super().__call__(inp, targ)

    trace = traced(Twice(model().layers))
    assert [step.phase for step in trace.steps] == (['forward'] * 4 + ['backward'] * 4) * 2
    assert [step.math for step in trace.steps[4:8]] == [step.math for step in trace.steps[12:]] and not trace.faults


def test_a_layer_that_never_runs_backward():
    class Forgets(ModelByHand):
        def backward(self): self.loss.backward(), self.layers[2].backward(), self.layers[1].backward()

    w1, b1, w2, b2 = parameters()
    trace = traced(Forgets(LinByHand(w1, b1), ReluByHand(), LinByHand(w2, b2)))
    assert [fault.text for fault in trace.faults] == ['has run, and nobody has written L1.w.g', 'has run, and nobody has written L1.b.g']


def test_zeroing_a_gradient_does_not_count_as_writing_it():
    class ZeroesAndForgets(ModelByHand):
        def __call__(self, inp, targ):
            self.layers[0].w.g.zero_()
            return super().__call__(inp, targ)

        def backward(self): self.loss.backward(), self.layers[2].backward(), self.layers[1].backward()

    w1, b1, w2, b2 = parameters()
    w1.g, b1.g = torch.ones(2, 3), torch.ones(3)
    trace = traced(ZeroesAndForgets(LinByHand(w1, b1), ReluByHand(), LinByHand(w2, b2)))
    assert [fault.text for fault in trace.faults] == ['has run, and nobody has written L1.w.g', 'has run, and nobody has written L1.b.g']


# ---- What is written down of it

class Complex(LayerFunction):
    def forward(self, inp): return torch.complex(inp, inp)
    def backward_rule(self, grad_out, inp): return grad_out.real + grad_out.imag


class Real(LayerFunction):
    def forward(self, inp): return inp.real.clone()
    def backward_rule(self, grad_out, inp): return torch.complex(grad_out, 0 * grad_out)


def complex_trace():
    w1, b1, w2, b2 = parameters()
    return traced(Model([Lin(w1, b1), Complex(), Real(), Lin(w2, b2)]))


@pytest.mark.parametrize('kind', [lambda t: t.to_sparse(), lambda t: t.to(torch.float8_e4m3fn), lambda t: torch.complex(t, t)])
def test_numbers_that_cannot_be_shown(kind):
    class Detour(Relu):
        def __init__(self, kept): self.kept = kept
        def parameters(self): return [self.kept]
        def backward_rule(self, grad_out, inp): return super().backward_rule(grad_out, inp), None

    trace = traced(model(Detour(kind(torch.ones(2, 2)))))
    numbers = {tensor.names[0]: tensor.numbers for tensor in trace.tensors}['D.kept']
    assert numbers[0][1].digest == 'unread' and numbers[0][1].shape == (2, 2) and 'unread' in trace._repr_html_()


def test_complex_numbers():
    trace = complex_trace()
    assert not trace.faults and 'C.out (2, 3), numbers that cannot be shown' in repr(trace)


def test_names_that_are_long_or_broken(tmp_path):
    class Broken(Relu):
        def __repr__(self): return 'half a character: \ud800'

    long = type('A' * 20_000, (Relu,), {'__repr__': object.__repr__})
    assert len(traced(model(long())).steps[1].layer) < 50
    trace = traced(model(Broken()))
    assert trace.steps[1].layer == 'B: half a character: ?'
    assert 'half a character: ?' in trace.save(tmp_path / 'trace.html').read_text(encoding='utf-8')


def test_pickle():
    trace = traced(model())
    again = pickle.loads(pickle.dumps(trace))
    assert again.steps == trace.steps and again._repr_html_() == trace._repr_html_()


def test_size():
    generator = torch.Generator().manual_seed(0)
    layers = [layer for _ in range(25) for layer in (Lin(torch.randn(50, 50, generator=generator) / 7, torch.zeros(50)), Relu())]
    inp, targ = torch.randn(50, 50, generator=generator), torch.randn(50, generator=generator)
    trace = trace_backward(Model([*layers, Lin(torch.ones(50, 1), torch.zeros(1))]), inp, targ)
    assert len(trace.places) == 52 and len(trace._repr_html_()) < 300_000


@pytest.mark.parametrize('layers', [None, {'first': Relu()}, iter([Relu()])])
def test_layers_in_no_list(layers):
    own = model()
    own.layers = layers
    with pytest.raises(TypeError, match=f'layers of a model in a list, got {type(layers).__name__}'):
        traced(own)


# ---- What ran, and not what its class would have run

def test_a_backward_of_its_own_has_no_formula_of_ours():
    class Upside(Relu):
        def backward(self):
            super().backward()
            self.inp.g = -self.inp.g

    ours, own = (traced(model(layer)).steps[6] for layer in (Relu(), Upside()))
    assert own.layer.startswith('U: ') and ours.math and own.math != ours.math, (ours, own)


def test_an_old_gradient_that_is_only_cleared_is_no_fault():
    class Clears(Lin):
        def backward(self):
            for tensor in self.parameters():
                if hasattr(tensor, 'g'):
                    del tensor.g
            super().backward()

    w1, b1, w2, b2 = parameters()
    w1.g, b1.g = torch.ones(2, 3), torch.ones(3)
    assert not traced(Model([Clears(w1, b1), Relu(), Lin(w2, b2)])).faults


@pytest.mark.parametrize('look', [lambda tensor: tensor.detach(), lambda tensor: tensor.data])
def test_reads_through_another_object(look):
    class Reads(Relu):
        def backward_rule(self, grad_out, inp): return look(grad_out) * (look(inp) > 0)

    reads = {access.name for access in traced(model(Reads())).steps[6].reads}
    assert {'R.out.g', 'L1.out'} <= reads


def test_plot_of_a_layer_without_inputs():
    "It hands nothing on, so no arrow is drawn for it; its output stands where the chain is."
    import matplotlib.pyplot as plt

    class Nothing(LayerFunction):
        def forward(self): return torch.ones(2, 1)
        def backward_rule(self, grad_out): return ()

    class Starts(Model):
        def __call__(self, inp, targ): return self.loss(self.layers[0](), targ)

    trace = traced(Starts([Nothing()]))
    assert [layer.inputs for layer in trace.places] == [(), ('N.out', 'targ')] and len(trace.steps) == 4
    ax = trace.plot()
    texts = [text.get_text() for text in ax.texts if text.get_text()]
    assert texts == ['N.out\nis M.inp', 'loss\nis M.out', '2  M', '3  M', 'targ\nis M.targ']
    plt.close(ax.figure)


# ---- The formula

def test_the_lines_of_the_rule_that_ran():
    assert [step.math for step in traced(model()).steps[4:7]] == [
        'difference = inp.squeeze(-1) - targ\ngrad_inp = grad_out * (2 / max(1, targ.numel())) * difference\n'
        'return grad_inp.unsqueeze(-1), None',
        'grad_inp = grad_out @ w.T if needs_inp_grad else None\ngrad_w = inp.T @ grad_out\ngrad_b = grad_out.sum(0)',
        'return grad_out * (inp > 0)']


def test_the_lines_of_a_rule_whoever_calls_it():
    w1, b1, w2, b2 = parameters()
    by_hand = traced(ModelByHand(LinByHand(w1, b1), ReluByHand(), LinByHand(w2, b2)))
    assert [step.math for step in by_hand.steps] == [step.math for step in traced(model()).steps]


def test_a_function_that_has_no_rule():
    def double(inp): return 2 * inp

    class Calls(LayerFunction):
        def forward(self, inp): return double(inp)
        def backward_rule(self, grad_out, inp): return double(grad_out)

    trace = traced(model(Calls()))
    assert trace and [trace.steps[i].math for i in (1, 6)] == ['return 2 * inp'] * 2


def test_names_of_the_inputs_of_a_function():
    def scale(given, factor): return given * factor

    class Scale:
        function = staticmethod(scale)

        def __init__(self): self.factor = torch.tensor(2.)

        def __call__(self, *inputs):
            self.inputs, self.out = inputs, scale(*inputs, self.factor)
            return self.out

        def backward(self): self.inputs[0].g, self.factor.g = self.factor * self.out.g, (self.inputs[0] * self.out.g).sum()

    w1, b1, w2, b2 = parameters()
    trace = traced(ModelByHand(LinByHand(w1, b1), Scale(), LinByHand(w2, b2)))
    assert trace and trace.steps[1].aliases == ('S.given is L1.out', 'S.out is L2.inp')


def test_shared_methods():
    for step in traced(model()).steps:
        for code in step.code:
            assert code.shared == code.name.startswith('LayerFunction.') and not code.name.startswith('_')


# ---- Verdicts

def test_true_without_a_fault():
    assert traced(model()) and not traced(model(), raises=False).faults
    assert not trace_backward(model(), INP * float('inf'), TARG)


def test_upstream_gradient_changed_in_place():
    class InPlace(Relu):
        def backward_rule(self, grad_out, inp):
            grad_out *= 2
            return super().backward_rule(grad_out, inp)

    trace = traced(model(InPlace()))
    assert faults(trace) == [(7, 'changed')] and trace.faults[0].text == 'changes I.out.g in place'


# ---- What is refused, and what is not

def test_refusals():
    with pytest.raises(TypeError, match='model with layers, a loss and backward'):
        trace_backward(torch.nn.Sequential(torch.nn.Linear(2, 1)), INP, TARG)
    with pytest.raises(TypeError, match='layers that can be called and have backward.*got ReLU'):
        trace_backward(ModelByHand(torch.nn.ReLU()), INP, TARG)
    with pytest.raises(ValueError, match='at least one layer, got none'):
        trace_backward(Model([]), INP, TARG)
    with pytest.raises(TypeError, match='a tensor for inp, got list'):
        trace_backward(model(), [[1., 2.]], TARG)
    with pytest.raises(ValueError, match='who_writes expects one of'):
        traced(model()).who_writes('L3.out.g')


def test_error_in_backward():
    class Stumbles(Relu):
        tired = True

        def backward_rule(self, grad_out, inp):
            if self.tired:
                raise RuntimeError('not today')
            return super().backward_rule(grad_out, inp)

    own = model(Stumbles())
    trace = traced(own, raises=False)
    assert faults(trace) == [(7, 'raised')] and isinstance(trace.error, RuntimeError)
    own.layers[1].tired = False
    assert traced(own)


def test_error_in_forward_carries_the_trace():
    own = model()
    with pytest.raises(ValueError) as caught:
        trace_backward(own, INP, TARG[:, None])
    assert len(caught.value.trace.steps) == 4 and caught.value.trace.steps[3].layer == 'M: Mse()'
    assert traced(own)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize('rows', [2, 1])
def test_precisions_views_and_batches(dtype, rows):
    w1, b1, w2, b2 = (p.to(dtype) for p in parameters())
    view = INP.to(dtype).t().contiguous().t()[:rows]
    trace = trace_backward(Model([Lin(w1, b1), Relu(), Lin(w2, b2)]), view, TARG.to(dtype)[:rows])
    assert trace and len(trace.steps) == 8


def test_weights_that_require_a_gradient():
    w1, b1, w2, b2 = (p.requires_grad_() for p in parameters())
    assert traced(Model([Lin(w1, b1), Relu(), Lin(w2, b2)]))


def test_empty_batch():
    assert faults(trace_backward(model(), INP[:0], TARG[:0])) == [(4, 'not finite')]


def test_large_tensors_are_sampled():
    generator = torch.Generator().manual_seed(0)
    w1, inp = torch.randn(64, 50, generator=generator), torch.randn(1500, 64, generator=generator)
    trace = trace_backward(Model([Lin(w1, torch.zeros(50)), Relu(), Lin(torch.ones(50, 1), torch.zeros(1))]), inp, inp[:, 0])
    sampled = trace.steps[0].reads[0].numbers
    assert sampled.shape == (1500, 64) and not sampled.complete and len(sampled.values) == len(sampled.values[0]) == 12
    assert len(trace._repr_html_()) < 300_000


def test_gradients_to_the_last_bit():
    watched, plain, inp = model(), model(), INP.clone()
    trace_backward(watched, inp, TARG)
    other = INP.clone()
    plain(other, TARG), plain.backward()
    for own, same in zip([inp, *watched.parameters()], [other, *plain.parameters()], strict=True):
        assert torch.equal(own.g, same.g)
