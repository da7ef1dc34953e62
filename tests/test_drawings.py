"""Drawings hold what they were told to draw; what can't be drawn is refused."""
import matplotlib
import pytest
from backprop_course.toolbox.drawings import plot_flow, plot_network
from matplotlib.figure import Figure


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


def test_new_axes_are_made():
    assert plot_network([1]).figure and plot_flow({'x': (0, 0)}, []).figure


@pytest.mark.parametrize('call', [
    lambda: plot_network([]), lambda: plot_network([2, 0]), lambda: plot_network([2, 3], names=['inp']),
    lambda: plot_flow({'x': (0, 0)}, [('x', 'y', '', '')])])
def test_refused(call):
    with pytest.raises(ValueError, match='expects'):
        call()
