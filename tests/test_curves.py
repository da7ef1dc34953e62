"""Curves, tables, pictures and paths hold what they were given; what can't be drawn is refused."""
import math
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from backprop_course.toolbox.curves import (
    confusion, learn, plot_confusion, plot_history, plot_paths, plot_pictures, plot_sizes, plot_stamps, plot_worst)
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS
from torch.testing import assert_close

matplotlib.use('Agg')


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close('all')


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_confusion():
    out, targ = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.6, 0.5], [0.3, 0.4]]), torch.tensor([1, 1, 0, 1])
    assert confusion(out, targ).tolist() == [[1, 0], [1, 2]]
    assert confusion(out[:0], targ[:0]).tolist() == [[0, 0], [0, 0]]


@given(SEEDS, st.integers(0, 30), st.integers(1, 6))
def test_confusion_adds_up(seed, rows, n_classes):
    out, targ = random(rows, n_classes, seed=seed), torch.randint(n_classes, (rows,), generator=torch.Generator().manual_seed(seed))
    counts = confusion(out, targ)
    assert counts.sum(1).tolist() == targ.bincount(minlength=n_classes).tolist()
    assert counts.sum(0).tolist() == out.argmax(1).bincount(minlength=n_classes).tolist()
    assert counts.diag().sum() == (out.argmax(1) == targ).sum()


def test_rows_with_nan_have_no_answer():
    out = random(3, 10)
    out[1, 4] = torch.nan
    assert out.argmax(1)[1] == 4  # torch gives one all the same
    for look in (confusion, plot_confusion, lambda *rows: plot_worst(torch.ones(3, 64), *rows)):
        with pytest.raises(ValueError, match='got nan in 1 of 3 rows; look for inf or nan'):
            look(out, torch.tensor([1, 2, 3]))


def test_history():
    left, right = plot_history([3.0, 2.0], [2.5, 2.0], [0.5, 0.75])
    assert [line.get_ydata().tolist() for line in left.lines] == [[3.0, 2.0], [2.5, 2.0]] and left.get_yscale() == 'log'
    assert right.lines[0].get_ydata().tolist() == [50.0, 25.0]
    axes = plt.subplots(1, 2)[1]
    assert plot_history([1.0], [1.0], [0.5], ax=axes) is axes
    for numbers in (([], [], []), ([1.0], [1.0, 2.0], [0.5])):
        with pytest.raises(ValueError, match='at least one epoch, got'):
            plot_history(*numbers)


def test_confusion_drawn():
    ax = plot_confusion(torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.6, 0.5], [0.3, 0.4]]), torch.tensor([1, 1, 0, 1]))
    texts = {text.get_position(): (text.get_text(), text.get_weight()) for text in ax.texts}
    assert texts == {(0, 0): ('1', 'normal'), (0, 1): ('1', 'bold'), (1, 1): ('2', 'normal')}
    assert plot_confusion(random(4, 3), torch.tensor([0, 1, 2, 0]), ax=plt.subplots()[1])


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


def test_pictures():
    rows = torch.rand(6, 64)
    axes = plot_pictures(rows, 'abcdef')
    assert len(axes) == 6 and [ax.get_title() for ax in axes] == list('abcdef')
    assert_close(torch.tensor(axes[4].images[0].get_array()), rows[4].view(8, 8))
    assert plot_pictures(rows.view(3, 8, 16))[0].get_title() == ''
    for wrong in (rows[:, :60], rows[:0], rows[0]):
        with pytest.raises(ValueError, match='plot_pictures expects a picture for each'):
            plot_pictures(wrong)
    with pytest.raises(ValueError, match='each of the 2 rows'):
        plot_pictures(rows, ['one', 'two'])


def test_paths():
    def bowl(w): return (w ** 2).sum(-1)

    walks = {'down': torch.tensor([[2.0, 0.0], [1.0, 0.0]]), 'away': torch.tensor([[1.0, 0.0], [3.0, 0.0]])}
    first, second = plot_paths(walks, bowl)
    assert first.get_title() == 'down: height 1.000 at the end' and second.get_title() == 'away: height 9.000 at the end'
    assert first.lines[0].get_xdata().tolist() == [2.0, 1.0] and first.get_xlim()[1] > 3
    with pytest.raises(ValueError, match='at least one path'):
        plot_paths({}, bowl)


def test_sizes_says_what_a_logarithmic_axis_cannot_show():
    ax = plot_sizes({'grows': [1., 1e30, math.inf, math.nan], 'dies': [1., 0., 0.], 'lost': [math.nan], 'fine': [1., torch.tensor(2.)]})
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ['grows, then inf', 'dies, then 0', 'lost, then nan', 'fine']
    crosses = [tuple(float(one[0]) for one in line.get_data()) for line in ax.lines if line.get_marker() == 'X']
    assert ax.get_yscale() == 'log' and any(abs(tick - 1) < 1e-9 for tick in ax.get_yticks())
    assert crosses == [(1., 1e30), (0., 1.)]
    with pytest.raises(ValueError, match='at least one'):
        plot_sizes({})


def test_learn_repeats_itself_and_validates_in_eval_mode():
    rows, right = torch.eye(3).repeat(20, 1), torch.arange(3).repeat(20)
    data = SimpleNamespace(inp=rows, targ=right, valid_inp=rows, valid_targ=right)

    def model():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))

    first, again = learn(model(), data, epochs=8), learn(model(), data, epochs=8)
    assert first == again and len(first.losses) == len(first.accuracies) == 8
    assert first.losses[-1] < first.losses[0] and first.accuracies[-1] == 1
    trained = model()
    learn(trained, data, lambda out, targ: (out ** 2).mean(), epochs=1)
    assert not trained.training


def test_stamps():
    runs = {'a': [3.0, 2.0], 'b': [3.0, 1.0], 'c': [3.0, 5.0], 'd': [3.0, 3.0]}
    axes = plot_stamps(runs)
    assert [ax.get_title() for ax in axes] == list(runs) and axes[0].get_ylim() == (0, 5.25) == axes[3].get_ylim()
    assert [line.get_ydata().tolist() for line in axes[2].lines] == [[3.0, 5.0]] and not axes[0].figure.legends
    compared = plot_stamps(runs, dict.fromkeys(runs, [3.0, 0.0]), labels=('mine', 'yours'))
    assert [len(ax.lines) for ax in compared] == [2] * 4
    assert sorted(text.get_text() for text in compared[0].figure.legends[0].get_texts()) == ['mine', 'yours']
    with pytest.raises(ValueError, match='at least one run'):
        plot_stamps({})
    with pytest.raises(ValueError, match='a curve beside it'):
        plot_stamps(runs, {'a': [1.0]})
