"""What must hold for all shapes, on examples that Hypothesis writes: a few hundred here, more by `make fuzz`; and what is refused."""
import numpy as np
import pytest
import torch
from backprop_course.toolbox.shapes import broadcast_shapes, explain_broadcast, plot_broadcast, unbroadcast
from hypothesis import event, example, given
from hypothesis import strategies as st
from strategies import SEEDS, SHAPES, SIZES, members, tensors
from torch.testing import assert_close


def families(most, axes):
    "Shapes to be combined, at most `most`, with at most `axes` axes."
    return st.lists(SIZES, min_size=1, max_size=axes).flatmap(lambda whole: st.lists(members(whole), min_size=2, max_size=most))


def combine(*shapes):
    "What NumPy makes of the shapes; `None` if they clash."
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return None


@given(families(most=5, axes=4))
@example([])
@example([(2, 0)])
def test_broadcast_shapes(family):
    expected = combine(*family)
    event('clash' if expected is None else 'stretched' if any(shape != expected for shape in family) else 'same')
    if expected is not None:
        assert broadcast_shapes(*family) == expected == tuple(torch.broadcast_shapes(*family))
        return
    with pytest.raises(RuntimeError):
        torch.broadcast_shapes(*family)
    with pytest.raises(ValueError, match=r'on axis -\d, got ') as refused:
        broadcast_shapes(*family)
    axis = int(str(refused.value).partition('on axis ')[2][:2])
    clash = [(shape[axis], name, shape) for name, shape in zip('abcde', family) if len(shape) >= -axis and shape[axis] != 1]
    assert len({size for size, *_ in clash}) > 1  # they do clash on that axis
    assert combine(*(shape[axis + 1 or len(shape):] for shape in family)) is not None  # and on none behind it
    assert ' and '.join(f'{size} in {name} {shape}' for size, name, shape in clash) in str(refused.value)


@given(families(most=3, axes=3))
@example([])
@example([(2, 0)])
def test_explain_broadcast(family):
    explanation = explain_broadcast(*family)
    assert explanation.result == combine(*family)
    assert explanation.table[-1][-1] == ('clash' if explanation.result is None else str(explanation.result))
    assert repr(explanation) and explanation._repr_html_().startswith('<table>')
    event(f'{len(explanation.fixes) and "some" or "no"} fixes')
    for fix in explanation.fixes:  # codes such as 'b[:, None]'
        arrays = {name: np.empty(shape) for name, shape in zip('abc', family)}
        arrays.update({code[0]: eval(code, {}, arrays) for code in fix.codes})
        assert combine(*(array.shape for array in arrays.values())) == fix.result


@given(SHAPES, st.data(), SEEDS)
def test_unbroadcast(large, data, seed):
    small = data.draw(members(large), 'small')
    grad, = tensors([large], seed)
    fits = combine(small, large) == large
    event('refused' if not fits else 'stretched' if small != large else 'same')
    if not fits:
        with pytest.raises(ValueError) as refused:
            unbroadcast(grad, small)
        assert str(small) in str(refused.value) and f'got {large}' in str(refused.value)
        return
    leaf = torch.zeros(small, dtype=torch.float64, requires_grad=True)
    by_autograd, = torch.autograd.grad(leaf.expand(large), leaf, grad)
    before = grad.clone()
    assert_close(unbroadcast(grad, small), by_autograd)
    assert torch.equal(grad, before)
    read = np.broadcast_to(np.arange(leaf.numel()).reshape(small), large)  # which entry NumPy reads at each place
    by_numpy = np.zeros(leaf.numel())
    np.add.at(by_numpy, read.ravel(), grad.numpy().ravel())
    assert_close(unbroadcast(grad, small), torch.from_numpy(by_numpy.reshape(small)))


def test_an_explanation_can_be_asserted():
    assert explain_broadcast((64, 1), 64)
    assert not explain_broadcast((5, 4), 5)


def test_what_stretches_each_other_is_noted():
    assert 'note: the result has 4096 elements' in repr(explain_broadcast((64, 1), (64,)))
    assert 'note' not in repr(explain_broadcast((64, 1), (64, 3)))


@pytest.mark.parametrize('shapes, error, words', [
    ((torch.ones(2),), TypeError, 'expects shapes, got a tensor; try its .shape'),
    (('ab',), TypeError, "such as (4, 3), got 'ab'"),
    (((2.0, 3),), TypeError, 'tuple of whole numbers'),
    ((-1,), ValueError, 'sizes of 0 or more'),
])
def test_no_shapes(shapes, error, words):
    for function in (broadcast_shapes, explain_broadcast, plot_broadcast):
        with pytest.raises(error) as refused:
            function(*shapes)
        assert words in str(refused.value) and function.__name__ in str(refused.value)


@pytest.mark.parametrize('shapes, words', [
    ([], 'one to three shapes, got 0'), ([2] * 4, 'one to three shapes, got 4'), ([(1, 1, 1, 2)], 'at most 3 axes'), ([(0, 2)], 'no cell to draw'),
    ([(3, 100)], 'try smaller sizes'), ([(2, 3), 2], 'equal or 1 on axis -1')])
def test_what_is_not_drawn(shapes, words):
    with pytest.raises(ValueError, match=words):
        plot_broadcast(*shapes)


def test_drawing_shows_the_sum():
    "What stands in the cells: 1, 2, 3 of the column, 10, 20 of the row, and their sums."
    texts = [text.get_text() for text in plot_broadcast((3, 1), 2).texts]
    cells = [int(text) for text in texts if text.isdigit()]
    assert cells == [1, 1, 2, 2, 3, 3] + [10, 20] * 3 + [11, 21, 12, 22, 13, 23]


def test_unbroadcast_says_how_it_may_have_been_stretched():
    with pytest.raises(ValueError, match=r'was it stretched as \(3, 1\)'):
        unbroadcast(torch.ones(3, 4), 3)
    with pytest.raises(TypeError, match='floating-point'):
        unbroadcast(torch.ones(3, dtype=torch.int64), 3)
