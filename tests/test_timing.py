"""Functions timed side by side: what is compared and how it is shown; no test depends on how long anything takes."""
import pytest
import torch
from backprop_course.toolbox.timing import Ladder, plot_ladder, time_ladder


def test_ladder_compares_with_the_first():
    ladder = Ladder({'a': 2.0, 'b': 0.5}, 'nothing')
    assert ladder.speedups == {'a': 1.0, 'b': 4.0}
    assert [line.split() for line in str(ladder).splitlines()[-2:]] == [['a', '2', 's', '1.0'], ['b', '500', 'ms', '4.0']]


def test_rates_of_a_product():
    ladder = Ladder({'slow': 1e-3, 'fast': 1e-6}, 'a product', operations=1000, best_rate=1e9)
    assert [line.split()[-2:] for line in str(ladder).splitlines()[-2:]] == [['0.0010', '0.10'], ['1.0', '100']]


def test_every_function_is_called_with_the_arguments_and_threads_are_restored():
    called, threads = [], torch.get_num_threads()
    def f(x, y): called.append((x, y, torch.get_num_threads()))
    ladder = time_ladder({'f': f}, 1, 2, budget=0, threads=1)
    assert set(called) == {(1, 2, 1)} and len(called) >= 2 and torch.get_num_threads() == threads
    assert ladder.seconds['f'] > 0 and ladder.best_rate is None and ladder.setting == '1 CPU thread'
    def fails(): raise RuntimeError('on purpose')
    with pytest.raises(RuntimeError, match='on purpose'):
        time_ladder(fails)
    assert torch.get_num_threads() == threads


def test_a_product_is_recognised():
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    ladder = time_ladder([torch.matmul], a, b, budget=0)
    assert ladder.operations == 2 * 3 * 4 * 5 and ladder.best_rate and '(3, 4) and (4, 5), float32' in ladder.setting
    assert not time_ladder([torch.add], a, a, budget=0).operations


@pytest.mark.parametrize('functions, error, words', [
    ([], ValueError, 'got none'), ([abs, abs], ValueError, 'a name of its own'), ({'x': 3}, TypeError, 'got int for x'), (3, TypeError, 'got int')])
def test_refused(functions, error, words):
    with pytest.raises(error, match=words):
        time_ladder(functions)


def test_bars():
    ax = plot_ladder(Ladder({'a': 1e-3, 'b': 1e-6}, 'a product', operations=1000, best_rate=1e10))
    assert [text.get_text() for text in ax.texts] == ['1.0 times, 1 ms', '1,000 times, 1 µs']
    assert [line.get_linestyle() for line in ax.lines] == ['--']
    with pytest.raises(TypeError, match='got dict'):
        plot_ladder({'a': 1.0})
