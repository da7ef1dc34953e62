"""What is said about a line that a reader wrote: nothing is raised, nothing wrong is called right."""
import pytest
import torch
from backprop_course.toolbox.gaps import your_turn

X = torch.arange(6.).view(2, 3)


def total(x): return x.sum(0)


def said(capsys, *arguments):
    your_turn(*arguments)
    return capsys.readouterr().out.strip()


@pytest.mark.parametrize('yours, expected, inputs', [
    (lambda x: x[0] + x[1], total, (X,)), (lambda x: list(x.unbind()), lambda x: x.unbind(), (X,)), (torch.Size([2, 3]), (2, 3), ()),
    (6, lambda: X.numel(), ()), (lambda x: x.sum(), 15.0, (X,)), (torch.tensor(True), True, ()), (0.33334, 1 / 3, ()), (True, lambda: bool((X >= 0).all()), ()), ('a', 'a', ()), (None, None, ()),
    (torch.tensor(float('nan')), torch.tensor(float('nan')), ()), (lambda x: x.double().sum(0), total, (X,)),
])
def test_right(capsys, yours, expected, inputs):
    assert said(capsys, yours, expected, *inputs) == 'Right.'


@pytest.mark.parametrize('yours, expected, inputs', [
    (lambda x: x.sum(1), total, (X,)), (lambda x: x.sum(0, keepdim=True), total, (X,)), (lambda x: x.sum(0) * 1.01, total, (X,)),
    (lambda x: x.sum(0).tolist(), total, (X,)), (lambda x: 'sum', total, (X,)), (lambda x: (x.sum(0),), total, (X,)), (lambda: 0, total, (X,)),
    (lambda x: x.nothing, total, (X,)), (lambda x: 1 / 0, total, (X,)), ((2, 4), (2, 3), ()), ((2,), (2, 3), ()), (5, lambda: X.numel(), ()),
    (False, True, ()), (lambda x: x > 1, True, (X,)), (X > 1, True, ()), (X > 1, 'a', ()), ('b', 'a', ()), (3, None, ()), (lambda x: torch.full((3,), float('nan')), total, (X,)), (float('nan'), 1., ()),
])
def test_wrong(capsys, yours, expected, inputs):
    assert said(capsys, yours, expected, *inputs).startswith('Not yet')


@pytest.mark.parametrize('yours', [..., None, lambda x: ..., lambda x: None])
def test_not_written(capsys, yours):
    assert said(capsys, yours, total, X).startswith('Your turn')


def test_a_guess_does_not_see_the_answer(capsys):
    assert '3' not in said(capsys, (2, 4), (2, 3))
    assert said(capsys, lambda x: x.max(), 6., X).startswith('Not yet')
    assert '6' not in said(capsys, 5, lambda: X.numel())


def test_inputs_are_copies(capsys):
    x = X.clone()
    assert said(capsys, lambda x: x.zero_().sum(0), total, x).startswith('Not yet') and torch.equal(x, X)
