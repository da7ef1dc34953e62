"""Letters in place of numbers: the functions that know them, and the derivations that they write down."""
import numpy as np
import pytest
import sympy
from backprop_course import numpy_edition
from backprop_course.forward import relu
from backprop_course.numpy_edition import derivation, letters
from backprop_course.toolbox.rules import RULES

def at_numbers(array, values):
    "What the expressions in an array are for these values of their letters."
    return np.vectorize(lambda one: complex(sympy.sympify(numpy_edition._exactly(one)).subs(values)).real)(np.asarray(array))


X, Y = np.array([0.3, -1.2, 0.7]), np.array([0.3, 0.4, -2.])


@pytest.mark.parametrize('function', [
    np.exp, lambda x, y: np.log(y ** 2), lambda x, y: np.tanh(x), lambda x, y: np.sqrt(x ** 2 + 1), np.maximum, np.minimum,
    np.logaddexp, lambda x, y: 1.5 * (x > y), lambda x, y: 2 * (x < y), lambda x, y: x * (x >= y), lambda x, y: x * (x <= y),
    lambda x, y: x * (x == y), lambda x, y: x * (x != y), lambda x, y: x * ((x > 0) | (y > 0)), lambda x, y: x * ((x > 0) & (y > 0)),
    lambda x, y: x * ~(x > y), lambda x, y: np.where(x > y, x, 2), lambda x, y: np.max(x * y), lambda x, y: x.mean() + x.min(),
    lambda x, y: (x > 0).sum() * y, lambda x, y: x @ y, lambda x, y: np.cumsum(x)[-1] + x[0] / 3, lambda x, y: abs(x) + x.T,
    lambda x, y: np.concatenate([x, y])[::-1], lambda x, y: np.stack([x, y], 1).sum(0), lambda x, y: np.einsum('i,j->ij', x, y),
    lambda x, y: np.outer(x, y) - np.expand_dims(x, 1) * True, lambda x, y: x.cumsum(0), lambda x, y: np.ones_like(x) + np.zeros_like(y),
    lambda x, y: np.split(x, [1])[1], lambda x, y: (x > y).astype(float) * x, lambda x, y: np.swapaxes(np.outer(x, y), 0, 1),
    lambda x, y: np.take_along_axis(x, np.array([2, 0]), 0), lambda x, y: np.squeeze(np.broadcast_to(x, (1, 3)), 0) * y,
], ids=str)
def test_functions_of_letters(function):
    function = (lambda x, y: np.exp(x)) if function is np.exp else function
    x, y = letters('x', 3), letters('y', 3)
    values = dict(zip([*x.flat, *y.flat], [*X, *Y]))
    got = function(x, y)
    np.testing.assert_allclose(at_numbers(got, values), np.asarray(function(X, Y), float), rtol=1e-12)
    assert isinstance(got, numpy_edition.SymbolArray)


def test_at_writes_into_its_array():
    x, added = letters('x', 2), np.zeros(2, object)
    np.add.at(added, np.array([0, 0]), x)
    assert added.tolist() == [sum(x.flat), 0]


def test_numbers_stay_exact():
    x = letters('x', 1)
    assert (x * (2 / 3) + np.array([0.5])).tolist() == [x.item() * sympy.Rational(2, 3) + sympy.Rational(1, 2)]


def test_every_letter_is_another():
    assert len(set(letters('x', 12, 12).flat)) == 144 and letters('x').item().is_real


@pytest.mark.parametrize('unknown', [
    np.any, np.sin, np.argmax, np.sort, lambda x: np.clip(x, 0, 1), np.nonzero, np.count_nonzero, np.add.outer,
    lambda x: np.array_equal(x, x), lambda x: np.where(x), lambda x: x[0] == x[1] or None, lambda x: 1 if x[0] > 0 else 2])
def test_unknown_on_letters_is_refused(unknown):
    with pytest.raises(TypeError):
        bool(unknown(letters('x', 2)) is None)


def in_a_loop(x, n):
    out = x * 1
    for _ in range(n):
        out = out * x
    if n > 1:
        out += x
    out[0] = 2 * out[0]
    return out | out if n < 0 else out


def test_derivation():
    g, x = letters('g', 2), letters('x', 2)
    steps = derivation(RULES[relu].f_backward, g, x).steps
    assert [code for code, _ in steps] == ['inp > 0', 'grad_out * (inp > 0)']
    g_1, x_1 = g[1].item(), x[1].item()
    assert steps[1][1][1] == sympy.Piecewise((g_1, x_1 > 0), (0, True))
    with pytest.raises(ValueError, match='expects letters'):
        derivation(relu, np.ones(2))


def test_derivation_lists_every_round():
    found = derivation(in_a_loop, letters('x', 1), n=2)
    x = letters('x', 1)[0].item()
    codes = [code for code, _ in found.steps]
    assert codes.count('out = out * x') == 2 and codes.count('out += x') == 1
    assert dict(found.steps)['out += x'].item() == x ** 3 + x and found.result.item() == 2 * (x ** 3 + x)
    assert '|' not in found._repr_markdown_().replace(' | ', '').replace('| ', '').replace(' |', '').replace('|:--|:--|', '')
