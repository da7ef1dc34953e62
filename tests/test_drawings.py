"""Drawings hold what they were told to draw; what can't be drawn is refused."""
import matplotlib
import pytest
import torch
from backprop_course.forward import lin, relu
from backprop_course.toolbox.drawings import plot_flow, plot_jacobian, plot_matmul, plot_network
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from strategies import tensors


matplotlib.use('Agg')


def axes(): return Figure().subplots()
def words(ax): return sorted(text.get_text() for text in ax.texts if text.get_text())


def test_a_line_for_each_weight():
    ax = plot_network([3, 2], names=['inp', 'out'], ax=axes())
    assert len(ax.lines) == 6 and [len(column.get_offsets()) for column in ax.collections] == [3, 2] and words(ax) == ['inp', 'out']


def test_long_columns_are_shortened():
    ax = plot_network([64, 1000], ax=axes())
    assert [len(column.get_offsets()) for column in ax.collections] == [4, 4] and words(ax) == ['1,000', '64', '⋮', '⋮']


def test_flow():
    ax = plot_flow({'a': (0, 0), 'b': (1, 0), 'c': (1, 1)}, [('a', 'b', '3', '2'), ('a', 'b', '4', ''), ('a', 'c', '', '7')], ax=axes())
    assert words(ax) == ['2', '3', '4', '7', 'a', 'b', 'c']
    heights = {text.get_text(): text.get_position()[1] for text in ax.texts}
    assert heights['3'] > heights['2'] and heights['3'] != heights['4']  # value above gradient; two arrows apart


def test_a_product_marks_what_meets():
    ax = plot_matmul(2, 3, 4, i=1, j=2, ax=axes())
    bold = {text.get_text() for text in ax.texts if text.get_weight() == 'bold'}
    assert bold == {'a[1, 0]', 'a[1, 1]', 'a[1, 2]', 'b[0, 2]', 'b[1, 2]', 'b[2, 2]', 'out[1, 2]'}
    assert len(ax.texts) == len(cells(ax)) == 2 * 3 + 3 * 4 + 2 * 4
    assert words(plot_matmul(1, 1, 1, i=0, j=0, names=('inp', 'w', 'preds'), ax=axes())) == ['inp[0, 0]', 'preds[0, 0]', 'w[0, 0]']


def test_new_axes_are_made():
    assert plot_network([1]).figure and plot_flow({'x': (0, 0)}, []).figure and plot_matmul(1, 1, 1, i=0, j=0).figure


@pytest.mark.parametrize('call', [
    lambda: plot_network([]), lambda: plot_network([2, 0]), lambda: plot_network([2, 3], names=['inp']),
    lambda: plot_flow({'x': (0, 0)}, [('x', 'y', '', '')]),
    lambda: plot_matmul(2, 0, 4, i=0, j=0), lambda: plot_matmul(2, 3, 4, i=2, j=0), lambda: plot_matmul(2, 3, 4, i=0, j=-1)])
def test_refused(call):
    with pytest.raises(ValueError, match='expects'):
        call()


# ---- The Jacobian as a table

INP, W, B, GRAD_OUT = tensors([(2, 3), (3, 2), (2,), (2, 2)], 6)
OF_INP = torch.autograd.functional.jacobian(lambda inp: lin(inp, W, B), INP)


def cells(ax):
    "The coloured squares of a picture, by their left upper corner."
    return {patch.get_xy(): patch for patch in ax.patches if isinstance(patch, Rectangle) and patch.get_fill()}


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_each_number_stands_in_its_place():
    ax = plot_jacobian(OF_INP, ax=axes())
    at = {text.get_position(): text.get_text() for text in ax.texts}
    for row, numbers in enumerate(OF_INP.reshape(4, 6).tolist()):
        for column, number in enumerate(numbers):
            assert at[column + 0.5, row + 0.5] == (f'{number:.2f}' if number else '0')
    assert len(cells(ax)) == len(at) == 24
    assert [label.get_text() for label in ax.get_yticklabels()] == ['out[0,0]', 'out[0,1]', 'out[1,0]', 'out[1,1]']
    assert [label.get_text() for label in ax.get_xticklabels()][:4] == ['inp[0,0]', 'inp[0,1]', 'inp[0,2]', 'inp[1,0]']


def test_it_draws_on_the_axes_that_are_given():
    ax = axes()
    assert plot_jacobian(OF_INP, ax=ax) is ax
    made = plot_jacobian(OF_INP)
    assert made is not ax and made.figure.get_size_inches()[0] > 3


def test_above_0_is_orange_and_below_purple():
    ax = plot_jacobian(torch.tensor([[2.0, 0.0, -2.0]]), out_ndim=1, ax=axes())
    above, zero, below = (cells(ax)[column, 0].get_facecolor()[:3] for column in range(3))
    assert above[0] > above[2] and below[2] > below[1] and zero == to_rgba('#cccccc')[:3]


def test_a_large_table_has_no_numbers_and_hatches_what_is_0():
    ax = plot_jacobian(torch.eye(9), out_ndim=1, ax=axes())
    assert not ax.texts
    assert [cells(ax)[place, 0].get_hatch() for place in (0, 1)] == [None, '////']


@pytest.mark.parametrize('jacobian, options, names', [
    (torch.ones(2, 3), {'out_ndim': 1}, ('out[1]', 'inp[2]')),
    (torch.ones(2, 2, 3), {}, ('out[1,1]', 'inp[2]')),
    (torch.ones(1, 1, dtype=torch.float16), {'out_ndim': 1, 'names': ('a', 'z')}, ('a[0]', 'z[0]')),
    (torch.ones(2, 2, 2, 3).requires_grad_(), {}, ('out[1,1]', 'inp[1,2]')),
    (torch.zeros(2, 2), {'out_ndim': 1}, ('out[1]', 'inp[1]')),
])
def test_other_shapes(jacobian, options, names):
    ax = plot_jacobian(jacobian, ax=axes(), **options)
    assert (ax.get_yticklabels()[-1].get_text(), ax.get_xticklabels()[-1].get_text()) == names


@pytest.mark.parametrize('f, x, grad_out', [
    (lambda inp: lin(inp, W, B), INP, GRAD_OUT), (lambda w: lin(INP, w, B), W, GRAD_OUT), (lambda b: lin(INP, W, b), B, GRAD_OUT), (relu, INP, INP)])
def test_the_row_below_is_the_gradient(f, x, grad_out):
    leaf = x.clone().requires_grad_()
    f(leaf).backward(grad_out)
    ax = plot_jacobian(torch.autograd.functional.jacobian(f, x), grad_out, ax=axes())
    at = {tuple(round(float(one), 6) for one in text.get_position()): text.get_text() for text in ax.texts}
    below = [at[column + 0.5, round(grad_out.numel() + 1.1, 6)] for column in range(x.numel())]
    assert [float(number) for number in below] == pytest.approx(leaf.grad.flatten().tolist(), abs=0.0051)
    beside = [at[-1.1, row + 0.5] for row in range(grad_out.numel())]
    assert [float(number) for number in beside] == pytest.approx(grad_out.flatten().tolist(), abs=0.0051)


@pytest.mark.parametrize('column', [0, 1])
def test_the_framed_sum_is_written_out(column):
    jacobian, grad_out = torch.tensor([[1.0, 0.5], [-3.0, 0.0]]), torch.tensor([2.0, -1.0])
    ax = plot_jacobian(jacobian, grad_out, column, out_ndim=1, ax=axes())
    assert texts(ax)[-1] == ['framed: (2 × 1) + (-1 × -3) = 5', 'framed: (2 × 0.50) + (-1 × 0) = 1'][column]
    frames = [patch.get_xy() for patch in ax.patches if not patch.get_fill()]
    assert frames == [(-1.6, 0), (column, 0), (column, 2.6)]


@pytest.mark.parametrize('call, error, words', [
    (lambda: plot_jacobian(torch.zeros(10, 3, 10, 2)), ValueError, r'1 to 24 outputs and 1 to 24 inputs, got \(10, 3\) for the output and \(10, 2\)'),
    (lambda: plot_jacobian(torch.ones(2, 3)), ValueError, 'try another out_ndim'),
    (lambda: plot_jacobian(torch.ones(2, 0, 2, 3)), ValueError, '1 to 24 outputs'),
    (lambda: plot_jacobian(OF_INP, OF_INP), ValueError, r'expects grad_out of shape \(2, 2\) and at most 8'),
    (lambda: plot_jacobian(torch.eye(9), torch.ones(9), out_ndim=1), ValueError, 'at most 8 outputs'),
    (lambda: plot_jacobian(OF_INP, GRAD_OUT, 6), ValueError, 'a column from 0 to 5, got 6'),
    (lambda: plot_jacobian(OF_INP, column=-1), ValueError, 'a column from 0 to 5, got -1'),
    (lambda: plot_jacobian(OF_INP / 0), ValueError, 'finite numbers in jacobian'),
    (lambda: plot_jacobian(OF_INP, GRAD_OUT / 0), ValueError, 'finite numbers in grad_out'),
    (lambda: plot_jacobian(OF_INP.long()), TypeError, r'plot_jacobian expects floating-point numbers in jacobian, got torch.int64; try jacobian.float\(\)'),
    (lambda: plot_jacobian(OF_INP.tolist()), TypeError, 'a torch tensor for jacobian, got list'),
])
def test_no_jacobian(call, error, words):
    with pytest.raises(error, match=words):
        call()
