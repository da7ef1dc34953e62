"""Random graphs on Variables against PyTorch's autograd, in float64: a few hundred here, more by `make fuzz`."""
import copy
import gc
import pickle
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from backprop_course.toolbox import engine, operations
from backprop_course.toolbox.engine import Variable, apply, plot_graph, to_dot
from backprop_course.toolbox.rules import RULES, rule_for

@contextmanager
def rule(f, f_backward):
    "The function `f` with a rule, for the length of a block."
    rule_for(f)(f_backward)
    try:
        yield f
    finally:
        del RULES[f]


SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.sampled_from([2, 3, 1, 0])


def normal(shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# ---- The same step on a Variable and on a tensor. Each keeps its numbers small, so that long graphs stay finite.

ONE = {  # any shape -> any shape
    'tanh': lambda x: x.tanh(),
    'sigmoid': lambda x: x.sigmoid(),
    'exp': lambda x: (-(x * x)).exp(),
    'log': lambda x: (x * x + 1).log(),
    'relu': lambda x: x.relu(),
    'negative': lambda x: -x,
    'cube': lambda x: x.tanh() ** 3,
    'power of number': lambda x: 2 ** x.tanh(),
    'root': lambda x: (x * x + 1) ** 0.5,
    'numbers': lambda x: (1 - x) / 2 + 3 * x - 1 / (x * x + 1),
    'mask': lambda x: x * (x > 0),
    'flat': lambda x: x.reshape(-1),
    'sum': lambda x: x.sum(),
    'last': lambda x: x[..., -1:] if x.ndim else x,
    'backwards': lambda x: x.reshape(-1)[list(range(len(x.reshape(-1))))[::-1]],
    'twice': lambda x: x[None].sum(0) + x,
}
WITH_AXIS = {  # the last axis of at least one
    'sum last': lambda x: x.sum(-1),
    'mean last': lambda x: x.mean(-1, keepdim=True),
    'sum first': lambda x: x.sum(0, keepdim=True),
    'turn': lambda x: x.transpose(0, -1),
    'repeat': lambda x: x[[0, -1, 0]],
    'select': lambda x: x[0],
    'none': lambda x: x[:, None],
    'half': lambda x: x[..., ::2],
}
TWO = {  # shapes that stretch together
    'add': lambda a, b: a + b,
    'subtract': lambda a, b: a - b,
    'multiply': lambda a, b: a * b.tanh(),
    'divide': lambda a, b: a / (b * b + 1),
    'power': lambda a, b: (a * a + 1) ** b.tanh(),
}


def matmul(a, b):
    return (a @ b).tanh()


def matmul_turned(a, b):
    return (a @ b.transpose(-1, -2)).tanh()


def largest(x, dim):
    return x.max(dim) if isinstance(x, Variable) else x.amax(dim)


def joined(a, b):
    return Variable.cat([a, b]) if isinstance(a, Variable) else torch.cat([a, b])


def summed(equation, *operands):
    return Variable.einsum(equation, *operands) if isinstance(operands[0], Variable) else torch.einsum(equation, *operands)


def fits(one, other):
    try:
        return torch.broadcast_shapes(one, other) is not None
    except RuntimeError:
        return False


def leading_fit(a, b):
    return fits(a.shape[:-2], b.shape[:-2])


def possible(a, b):
    "The steps that can be taken with these two tensors: name, function, how many of the two it takes."
    yield from ((name, f, 1) for name, f in ONE.items() if name != 'last' or a.ndim)
    if a.ndim and a.numel():
        yield from ((name, f, 1) for name, f in WITH_AXIS.items())
        yield 'max', lambda x: largest(x, -1), 1
    if fits(a.shape, b.shape):
        yield from ((name, f, 2) for name, f in TWO.items())
    for _ in range(4):  # these fit more rarely, and are taken more often where they do
        if a.ndim and b.ndim and a.shape[-1] == b.shape[max(0, b.ndim - 2)] and leading_fit(a, b):
            yield 'matmul', matmul, 2
        if a.ndim and b.ndim > 1 and a.shape[-1] == b.shape[-1] and leading_fit(a, b):
            yield 'matmul turned', matmul_turned, 2
        if a.ndim and a.ndim == b.ndim and a.shape[1:] == b.shape[1:]:
            yield 'cat', joined, 2
        if a.ndim == b.ndim == 2 and a.shape[1] == b.shape[1]:
            yield 'einsum', lambda x, y: summed('ia,ja->ij', x, y).tanh(), 2


@dataclass
class Graph:
    shapes: list  # of the leaves
    steps: list   # (function, places among the nodes so far)
    seed: int
    names: list

    def leaves(self):
        generator = torch.Generator().manual_seed(self.seed)
        turned = [normal(shape[::-1], generator) for shape in self.shapes]
        return [x.permute([*range(x.ndim)][::-1]) for x in turned]  # not contiguous

    def run(self, leaves):
        nodes = list(leaves)
        for f, places in self.steps:
            nodes.append(f(*(nodes[place] for place in places)))
        return nodes


@st.composite
def graphs(draw, most=12):
    target = draw(st.lists(SIZES, max_size=3).map(tuple))
    cut = [tuple(1 if draw(st.integers(0, 3)) == 3 else size for size in target[draw(st.integers(0, len(target))):])
           for _ in range(draw(st.integers(1, 3)))]
    graph = Graph([target, *cut], [], draw(SEEDS), [])
    nodes = graph.leaves()
    for _ in range(draw(st.integers(1, most))):
        places = [draw(st.integers(0, len(nodes) - 1)) for _ in range(2)]
        choices = list(possible(*(nodes[place] for place in places)))
        name, f, count = choices[draw(st.integers(0, len(choices) - 1))]
        out = f(*(nodes[place] for place in places[:count]))
        if out.numel() <= 100:
            graph.steps.append((f, places[:count]))
            graph.names.append(name)
            nodes.append(out)
    return graph


def loss_of(nodes, seed):
    "Each node with weights of its own, so that no gradient is all ones and every node is used."
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for node in nodes:
        total = total + (node * normal(node.shape, generator)).sum()
    return total


def compare(ours, theirs):
    for our, their in zip(ours, theirs, strict=True):
        assert our.grad.shape == our.shape and our.grad.dtype == torch.float64
        assert_close(our.grad, their.grad, rtol=1e-9, atol=1e-9)


@settings(max_examples=max(2000, settings().max_examples))  # the one that finds most is tried most
@given(graphs())
def test_random_graph(graph):
    ours = [Variable(leaf) for leaf in graph.leaves()]
    theirs = [leaf.clone().requires_grad_() for leaf in graph.leaves()]
    nodes, by_torch = graph.run(ours), graph.run(theirs)
    for node, other in zip(nodes, by_torch, strict=True):
        assert_close(node.data, other.detach(), rtol=1e-12, atol=1e-12)
        if other.requires_grad:
            other.retain_grad()
    loss_of(nodes, graph.seed).backward()
    loss_of(by_torch, graph.seed).backward()
    compare(nodes, by_torch)  # the gradients in the middle, too
    for name in set(graph.names):
        event(name)


@given(graphs(most=6))
def test_two_passes(graph):
    "A kept graph gives the same once more; two losses add up; zero_grad starts anew; a freed graph is refused."
    ours = [Variable(leaf) for leaf in graph.leaves()]
    nodes = graph.run(ours)
    loss = loss_of(nodes, graph.seed)
    loss.backward(keep_graph=True)
    once = [node.grad.clone() for node in nodes]  # those in the middle, too
    loss.backward()
    for node, grad in zip(nodes, once, strict=True):
        assert_close(node.grad, 2 * grad)
    with pytest.raises(RuntimeError, match='freed'):
        loss.backward()
    for leaf in ours:
        leaf.zero_grad()
    loss_of(graph.run(ours), graph.seed).backward()
    for leaf, grad in zip(ours, once):
        assert_close(leaf.grad, grad)


@given(graphs(most=6), st.data())
def test_change_is_noticed(graph, data):
    "Whatever tensor of the graph is changed before backward, there is an error, and no gradient is written."
    ours = [Variable(leaf) for leaf in graph.leaves()]
    nodes = graph.run(ours)
    loss = loss_of(nodes, graph.seed)
    data.draw(st.sampled_from(nodes)).data.add_(1.0)
    with pytest.raises(RuntimeError, match='changed'):
        loss.backward()
    assert all(node.grad is None for node in nodes)


@given(graphs(most=6))
def test_given_gradient(graph):
    "backward(grad) from any node, with a random grad, which stays as it was."
    ours, theirs = [Variable(leaf) for leaf in graph.leaves()], [leaf.clone().requires_grad_() for leaf in graph.leaves()]
    end, by_torch = graph.run(ours)[-1], graph.run(theirs)[-1]
    grad = normal(end.shape, torch.Generator().manual_seed(graph.seed))
    kept = grad.clone()
    end.backward(grad)
    expected = torch.autograd.grad(by_torch, theirs, grad, allow_unused=True)
    for leaf, one in zip(ours, expected):
        assert (leaf.grad is None) == (one is None)
        if one is not None:
            assert_close(leaf.grad, one, rtol=1e-9, atol=1e-9)
    assert torch.equal(grad, kept)
    end.grad.add_(1.0)  # its own memory
    assert torch.equal(grad, kept)


@given(graphs(most=6), st.booleans(), st.data())
def test_failing_rule(graph, keep_graph, data):
    "A rule that fails, anywhere: no leaf gets a part of its gradient; with keep_graph nothing at all is written."
    def failing_backward(grad_out, *inputs):
        raise ZeroDivisionError

    ours = [Variable(leaf) for leaf in graph.leaves()]
    nodes = graph.run(ours)
    with rule(lambda inp: inp * 2, failing_backward) as failing:
        nodes.append(apply(failing, data.draw(st.sampled_from(nodes))))
    with pytest.raises(ZeroDivisionError):
        loss_of(nodes[::data.draw(st.sampled_from([1, -1]))], graph.seed).backward(keep_graph=keep_graph)
    assert all(node.grad is None for node in (nodes if keep_graph else ours))


# ---- Long graphs, and corners.

def long_row(steps=100_000):
    start = Variable(1.0)
    end = start
    for _ in range(steps):
        end = end * 1.0
    return start, end


def test_long_row():
    start, end = long_row()
    end.backward()
    assert start.grad == 1.0


@pytest.mark.parametrize('backward', [False, True])
@pytest.mark.parametrize('keep_graph', [False, True])
def test_long_row_is_freed_without_recursion(backward, keep_graph):
    "On a stack of 256 KiB, which a hundred thousand calls inside each other would overflow, on every Python."
    def make_and_drop():
        start, end = long_row()
        if backward:
            end.backward(keep_graph=keep_graph)
        del start, end
        gc.collect()
        done.append(True)

    done, before = [], threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=make_and_drop)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert done


def test_freed_in_a_branch():
    "What is still held elsewhere is not let go of."
    a = Variable(3.0)
    b = a * a
    c, d = b * 2, b * 5
    del c, b
    d.backward()
    assert a.grad == 30.0


def test_long_sum():
    terms = [Variable(1.0) for _ in range(100_000)]
    sum(terms).backward()
    assert all(term.grad == 1.0 for term in terms)


def test_operators_on_both_sides():
    generator = torch.Generator().manual_seed(0)
    x, other = 1 + torch.rand((2, 2), generator=generator), 1 + torch.rand((2, 2), generator=generator)
    for f in (lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a / b, lambda a, b: a ** b,
              lambda a, b: a @ b):
        for with_number in (False, True):
            second = 2.5 if with_number else other
            for ours in (lambda v: f(v, second), lambda v: f(second, v)):
                leaf, by_torch = Variable(x), x.clone().requires_grad_()
                try:
                    expected = ours(by_torch)
                except TypeError:  # a number @ a matrix
                    continue
                out = ours(leaf)
                assert isinstance(out, Variable)
                out.sum().backward(), expected.sum().backward()
                assert_close(out.data, expected.detach())
                assert_close(leaf.grad, by_torch.grad)


@pytest.mark.parametrize('f', [lambda a, b: a < b, lambda a, b: a <= b, lambda a, b: a > b, lambda a, b: a >= b,
                               lambda a, b: a == b, lambda a, b: a != b])
def test_comparisons(f):
    x, y = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 2.0])
    for a, b in ((Variable(x), y), (x, Variable(y)), (Variable(x), Variable(y)), (Variable(x), 2.0)):
        assert torch.equal(f(a, b), f(x, y))


def test_powers_at_zero():
    numbers = torch.tensor([-float('inf'), -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, float('inf'), float('nan')])
    for f in (lambda a, b: a ** 0, lambda a, b: a ** b, lambda a, b: a ** 2, lambda a, b: 0 ** b, lambda a, b: a ** -1,
              lambda a, b: a[:, None] ** b):
        ours = [Variable(numbers), Variable(numbers)]
        theirs = [leaf.data.clone().requires_grad_() for leaf in ours]
        f(*ours).sum().backward(), f(*theirs).sum().backward()
        for our, their in zip(ours, theirs):
            assert (our.grad is None) == (their.grad is None)
            if our.grad is not None:
                assert_close(our.grad, their.grad, equal_nan=True)


def test_each_variable_is_looked_at_once(monkeypatch):
    "Sixty doublings are 61 Variables and more paths than anybody could walk."
    looked = []

    def count(variable):
        looked.append(variable)
        assert len(looked) <= 61

    monkeypatch.setattr(Variable, 'check', count)
    start = Variable(1.0)
    end = start
    for _ in range(60):
        end = end + end
    end.backward()
    assert start.grad == 2.0 ** 60


@pytest.mark.parametrize('dim', [None, 0, 1, (0, 1), -1])
def test_largest_share(dim):
    ours = Variable(torch.tensor([[1.0, 3.0, 3.0], [3.0, 2.0, 2.0]]))
    theirs = ours.data.clone().requires_grad_()
    out, by_torch = ours.max(dim), theirs.amax(() if dim is None else dim)
    grad = torch.arange(1.0, 1 + out.data.numel()).reshape(out.shape)
    out.backward(grad), by_torch.backward(grad)
    assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize('dim', [(), [0, 1], (-1, -2), [1], np.int64(0), np.int64(1), torch.tensor(0), [np.int64(1)]])
@pytest.mark.parametrize('keepdim', [False, True])
def test_axes(dim, keepdim):
    for name in ('sum', 'mean'):
        ours = Variable(torch.arange(6.0).reshape(2, 3))
        theirs = ours.data.clone().requires_grad_()
        (getattr(ours, name)(dim, keepdim) ** 2).sum().backward(), (getattr(theirs, name)(dim, keepdim) ** 2).sum().backward()
        assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize('dim', [0.0, 1.0, '', '0', {}, [0.0], True, False, 2, torch.tensor([0, 1])])
def test_axes_that_are_none(dim):
    v = Variable(torch.ones(2, 3))
    for method in (v.sum, v.mean, v.max):
        with pytest.raises((TypeError, IndexError)):
            method(dim)


def test_failing_forward_leaves_nothing_behind():
    leaf = Variable(torch.ones(2, 3))
    with pytest.raises(RuntimeError):
        leaf @ leaf
    leaf.sum().backward()
    assert_close(leaf.grad, torch.ones(2, 3))


def test_dot_is_asked_where_a_caller_names_it(monkeypatch):
    "A program called dot that puts everything on a diagonal, and one that isn't there; unasked, none is looked for."
    a = Variable(2.0, name='a "quoted" \\ name')
    end = a * a
    assert to_dot(end).count('->') == 2
    plain = 'graph 1 9 9\nnode 0 1 1 1 1 a\nnode 1 5 5 1 1 b\nstop\n'
    asked = []
    monkeypatch.setattr(shutil, 'which', lambda name: asked.append(name) or name)
    monkeypatch.setattr(subprocess, 'run', lambda command, **options: subprocess.CompletedProcess(command, 0, plain))
    plot_graph(end)
    assert not asked
    positions = [text.get_position() for text in plot_graph(end, layout='dot').texts if text.get_text().strip()]
    assert asked and positions == [(1.2, 1.0), (6.0, 5.0)]
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    with pytest.raises(FileNotFoundError, match="needs Graphviz"):
        plot_graph(end, layout='dot')
    with pytest.raises(ValueError, match="layout='depth' or layout='dot'"):
        plot_graph(end, layout='circle')


@pytest.mark.skipif(not shutil.which('dot'), reason='Graphviz is not installed')
def test_real_dot():
    "Graphviz reads the text, whatever the names, and puts each result to the right of its inputs."
    a = Variable(torch.ones(2, 3), name='a "quoted" \\ name')
    b = a + a
    end = (b + b).sum()
    places = engine._places_by_dot(to_dot(end))
    assert sorted(places) == [0, 1, 2, 3]
    assert places[0][0] < places[1][0] < places[2][0] < places[3][0]
    ax = plot_graph(end, layout='dot')
    positions = [text.get_position() for text in ax.texts if text.get_text().strip()]
    assert positions == [places[at] for at in range(4)]


def test_layout_by_depth():
    "A column for each number of steps from the leaves."
    a = Variable(2.0)
    b = a + a
    ax = plot_graph(b + b)
    columns = [text.get_position()[0] for text in ax.texts if text.get_text().strip()]
    assert columns == sorted(set(columns)) and len(columns) == 3


def test_another_shape_between_forward_and_backward():
    for other in (torch.ones(3), torch.ones(2, 1), torch.ones(2, dtype=torch.float64)):
        w, kept = Variable(torch.ones(2)), Variable(torch.ones(2))
        loss = (w * kept).sum()
        w.data = other
        with pytest.raises(RuntimeError, match='multiply read a tensor of shape .2,.*was given.*call backward'):
            loss.backward()
        assert w.grad is None and kept.grad is None
    w = Variable(torch.ones(3))
    w.sum().backward()
    w.data = torch.ones(1, 3)  # would stretch with the old gradient
    with pytest.raises(RuntimeError, match='zero_grad'):
        w.sum().backward()
    w.zero_grad()
    w.sum().backward()
    assert w.grad.shape == (1, 3)


def test_function_that_changes_its_input():
    leaf = Variable(torch.ones(2))
    with rule(lambda inp: inp.exp_(), operations.exp_backward) as changing:
        out = apply(changing, leaf)
    with pytest.raises(RuntimeError, match='changed'):
        out.sum().backward()


def test_mends_of_two_dtypes():
    "The message names the operand that is to be changed, and the change works."
    v, other = Variable(torch.ones(3)), torch.ones(3, dtype=torch.float64)
    for f in (lambda: other + v, lambda: other * v, lambda: Variable.cat([v, other])):
        with pytest.raises(TypeError, match=r'expects one dtype, got .*float32 in .*float64 in .*\.to\('):
            f()
    with pytest.raises(TypeError, match=r'try a\.to\(b\.data\.dtype\)'):
        other + v
    with pytest.raises(TypeError, match=r'try b\.data\.to\(a\.data\.dtype\)'):
        v + Variable(other)
    with pytest.raises(TypeError, match=r'try inputs\[1\]\.to\(inputs\[0\]\.data\.dtype\)'):
        Variable.cat([v, other])
    assert (other.to(v.data.dtype) + v).dtype == torch.float32


def test_options_are_watched():
    def scale(inp, by): return inp * by
    def scale_backward(grad_out, inp, by): return grad_out * by

    v, by = Variable(3.0), torch.tensor(2.0)
    rule_for(scale)(scale_backward)
    apply(scale, v, by=by).backward()
    assert v.grad == 2.0
    out = apply(scale, v, by=by)
    del RULES[scale]
    by.mul_(5.0)
    with pytest.raises(RuntimeError, match='scale read or made was changed'):
        out.backward()


@pytest.mark.parametrize('renew', [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_copies_are_born_when_they_are_made(renew):
    "Also out of a file of another process, where numbers were larger."
    model = Variable(1.0, name='w')
    model.number += 10**9
    w = renew(model)
    assert w.name == 'w' and model.number > 10**9
    total = 0.0
    for _ in range(12):
        total = total + w * 1.0
    total.backward()
    assert w.grad == 12.0


def test_cat_of_different_axes():
    matrix, row = Variable(torch.ones(2, 3)), torch.ones(3)
    for inputs in ([matrix, row], [torch.ones(0), matrix], [matrix, torch.tensor(1.0)]):
        with pytest.raises(ValueError, match='equally many axes'):
            Variable.cat(inputs)
    assert Variable.cat([matrix, row[None]]).shape == (3, 3)


@pytest.mark.parametrize('data', [1, [1.0, 2.0], (1, 2), True, np.float32(1.5), np.int64(1), np.ones(2)])
def test_mend_of_no_tensor(data):
    with pytest.raises(TypeError, match='try torch.tensor.data, dtype=torch.float32.'):
        Variable(data)
    assert Variable(torch.tensor(data, dtype=torch.float32)).dtype == torch.float32


def test_numbers_of_numpy():
    assert Variable(np.float64(1.5)).dtype == torch.float32
    for dtype in (torch.float32, torch.float64):
        v = Variable(torch.ones(2, dtype=dtype))
        with pytest.raises(TypeError, match=f'try torch.tensor.grad, dtype={dtype}'):
            (v * 2).backward(np.ones(2))
        (v * 2).backward(torch.tensor(np.ones(2), dtype=dtype))
        assert v.grad.tolist() == [2.0, 2.0]


def test_mend_of_a_variable_in_a_variable():
    with pytest.raises(TypeError, match='got Variable; try data.data'):
        Variable(Variable(1.0))
    v = Variable(torch.ones(2))
    (v * 3).backward(Variable(torch.ones(2)))  # as a gradient it is as good as its tensor
    assert torch.equal(v.grad, torch.full((2,), 3.0))


def test_gradients_of_a_sum_are_in_memory_of_their_own():
    grad = torch.ones(2, 3)
    for shape in ((2, 3), (3,), (1, 3), (2, 1), ()):
        for part in operations.add_backward(grad, torch.ones(2, 3), torch.ones(shape)):
            part.add_(1.0)
    for part in operations.add_backward(grad[:1], torch.ones(1, 3), torch.ones(3)):
        part.add_(1.0)
    assert torch.equal(grad, torch.ones(2, 3))


def test_rule_with_a_wrong_number_of_gradients():
    leaf = Variable(torch.ones(2))
    with rule(lambda a, b: a + b, lambda grad_out, a, b: grad_out) as short:
        out = apply(short, leaf, leaf)
    with pytest.raises(RuntimeError, match='1 gradients for 2'):
        out.sum().backward()


def test_function_without_a_rule():
    with pytest.raises(LookupError, match='write one as @rule_for.floor.'):
        apply(torch.floor, Variable(1.5))
