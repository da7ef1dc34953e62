"""A tape gives what the function gave, also after in-place writes and with larger operations taken apart, and can be changed."""
import pytest
import torch
from backprop_course.toolbox.tape import Slot, Tape, mapped, replaced
from torch.testing import assert_close

X = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def scatter(x):
    out = torch.zeros_like(x)
    out[torch.tensor([0, 2, 2])] += x
    return out.sum(0)


@pytest.mark.parametrize('f', [lambda x: x.softmax(1), lambda x: x @ x.T, scatter, lambda x: torch.cat([x, 2 * x]).flip(0),
                               lambda x: (x.amax(1), x.sum())])
def test_a_tape_gives_what_the_function_gives(f):
    tape = Tape(f, [X])
    assert_close(tape.run([X + 1]), f(X + 1))


def test_a_change_and_the_line():
    def f(x):
        doubled = 2 * x
        return doubled.sum(0)
    tape = Tape(f, [X])
    assert [one.name for one in tape.operations] == ['mul', 'sum'] and tape.operations[1].line == 'return doubled.sum(0)'
    changed = tape.run([X], {1: lambda operation, args, kwargs, values: args[0].mean(0)})
    assert_close(changed, 2 * X.mean(0))
    kept = {}
    tape.run([X], keep=kept)
    assert_close(kept[1], 2 * X)


def test_small_parts():
    assert mapped(abs, {'a': (-1, [-2])}) == {'a': (1, [2])}
    assert replaced((1, 2), (1,), 3) == (1, 3) and replaced((1, [2, 3]), (1, 1), 4) == (1, [2, 4])
    assert Tape(lambda x: x.sum(1), [X]).operations[0].operands() == [((0,), Slot(0))]
