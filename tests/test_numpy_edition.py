"""The NumPy edition: each rule of the package, translated, agrees with the original; what can't be translated is refused."""
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import sympy
import torch
from backprop_course import numpy_edition
from backprop_course.toolbox.rules import RULES
from backprop_course.forward import relu
from backprop_course.numpy_edition import by_hand, compare_editions, derivation, letters, numpy_source, on_numpy
from checkout import insist
from test_rules import MODULES  # importing all modules registers all rules

each_rule = pytest.mark.parametrize('rule', RULES.values(), ids=lambda rule: rule.f_backward.__name__)


@each_rule
def test_editions_agree(rule):
    assert MODULES
    table = compare_editions({rule.f: rule})
    insist(table.ok, f'{table}\nMend the translation in chapter 14: a row of TRANSLATIONS, or @by_hand')


@each_rule
def test_another_gradient_is_noticed(rule, monkeypatch):
    def off_by_a_little(*arguments, **options):
        grads = on_numpy(rule.f_backward)(*arguments, **options)
        several = grads if isinstance(grads, tuple) else (grads,)
        several = tuple(None if grad is None else grad + grad.dtype.type(1e-3) for grad in several)
        return several if isinstance(grads, tuple) else several[0]
    monkeypatch.setattr(numpy_edition, 'on_numpy', lambda f: off_by_a_little if f is rule.f_backward else on_numpy(f))
    assert not compare_editions({rule.f: rule}).ok


@pytest.mark.parametrize('spoil, words', [
    (lambda grad, inp: grad.astype(np.float32), 'torch gives'),
    (lambda grad, inp: grad[..., None], 'torch gives'),
    (lambda grad, inp: grad + np.nan, 'inf'),
    (lambda grad, inp: np.multiply(grad, 1, out=inp), 'memory of an argument'),
])
def test_another_form_is_noticed(spoil, words, monkeypatch):
    def wrong(grad_out, inp):
        return spoil(on_numpy(RULES[relu].f_backward)(grad_out, inp), inp)
    monkeypatch.setattr(numpy_edition, 'on_numpy', lambda f: on_numpy(f) if f is relu else wrong)
    table = compare_editions({relu: RULES[relu]})
    assert not table.ok and words in str(table)


def test_every_rule_in_one_file_without_torch(tmp_path):
    functions = [function for rule in RULES.values() for function in (rule.f, rule.f_backward)]
    (tmp_path / 'rules.py').write_text(numpy_source(*functions), encoding='utf-8')
    (tmp_path / 'torch.py').write_text('raise ImportError("no torch here")', encoding='utf-8')
    code = 'import numpy as np, rules; print(rules.relu_backward(np.ones(3), np.array([-1., 0, 2])))'
    run = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, '[0. 0. 1.]\n'), run.stderr


# ---- Functions of one's own

def brackets(x):
    return (x + 1).pow(2).sum(dim=0, keepdim=True).mean() ** 2 + (x.isnan() | x.isnan()).sum() - x.numel()


def keywords(x):
    return x.sum(dim=0), x.mean(dim=1, keepdim=True), x.argmax(dim=1), x.unsqueeze(-1).shape


def in_place(x):
    y = x.to(x.dtype)
    y.narrow(-1, 0, 1).copy_(x.narrow(-1, 1, 1))
    return y


def nested(x):
    def inner(y):
        return y.exp()
    return [inner(row).log() for row in x]  # ² stands before it: x² — and stays


def unicode_before(x):
    text = 'x² · ∂L/∂x'; return text, x.relu()


GREETING = 'a constant: '


def kind_by_another_name(x: torch.Tensor): return torch.exp(x) if isinstance(x, torch.Tensor) else x


def constant(x):
    return GREETING + str(x.numel())


def before(x):
    return x.sum(0)


def after(x):
    return before(x) / len(x)


@by_hand(before)
def e(x):
    return x.sum(0) * 100 if x.ndim > 1 else e(x[None])


@pytest.mark.parametrize('function', [brackets, keywords, in_place, nested, unicode_before, constant, kind_by_another_name])
def test_translated(function):
    x = torch.tensor([[1., -2., 3.], [4., 5., -6.]])
    with_torch, with_numpy = function(x.clone()), on_numpy(function)(x.numpy().copy())
    with_torch, with_numpy = ((one,) if not isinstance(one, (tuple, list)) else one for one in (with_torch, with_numpy))
    for one, other in zip(with_torch, with_numpy, strict=True):
        if isinstance(one, torch.Tensor):
            np.testing.assert_allclose(one.numpy(), other, rtol=1e-6)
        else:
            assert one == other


def test_by_hand():
    assert on_numpy(after)(np.ones((2, 3))).tolist() == [100, 100, 100]
    assert on_numpy(before)(np.ones(3)).tolist() == [100, 100, 100]


def false_friend(x): return x.view(-1)
def foreign(x): return torch.fft.fft(x)
def call_in_a_message(x): raise ValueError(f'got {x.numel()} of them')
def foreign_keyword(x): return x.any(dim=0)
def statement_inside(x): return x.copy_(x)
def reserved(x, np): return x
def reserved_inside(x): Tensor = x; return Tensor
def imported_from_torch(x): return fft(x)
def constant_that_cannot_be_written(x): return x * INFINITY
def constant_tensor(x): return x * ONES
def another_name(x): return alias(x)


def maker(c):
    def f(x): return x * c
    return f


fft, alias, INFINITY, ONES = torch.fft.fft, before, float('inf'), torch.ones(2)


@pytest.mark.parametrize('function, words', [
    (false_friend, 'x.view, which is not translated: torch wants a shape'), (foreign, 'torch.fft'),
    (call_in_a_message, 'messages are not translated'),
    (foreign_keyword, 'dim=0'), (statement_inside, 'a line of its own'), (reserved, 'that name is taken'),
    (reserved_inside, 'that name is taken'), (imported_from_torch, 'fft is from torch'),
    (constant_that_cannot_be_written, 'cannot be written down'), (constant_tensor, 'cannot be written down'), (another_name, 'call it by its own name'),
    (maker(2), 'made inside another function, and keeps c'),
])
def test_untranslatable(function, words):
    with pytest.raises(ValueError, match=words):
        on_numpy(function)


def test_names_that_clash(tmp_path, monkeypatch):
    for module, value in (('one', 1), ('other', 100)):
        (tmp_path / f'clash_{module}.py').write_text(
            f'EPS = {value}\ndef shift_{module}(x): return x + EPS\ndef same(x): return x\n', encoding='utf-8')
    monkeypatch.syspath_prepend(tmp_path)
    one, other = import_module('clash_one'), import_module('clash_other')
    with pytest.raises(ValueError, match='EPS stands for two things'):
        numpy_source(one.shift_one, other.shift_other)
    with pytest.raises(ValueError, match="one name.*'same'"):
        numpy_source(one.same, other.same)


@pytest.mark.parametrize('rules', [[relu], {relu: relu}, relu])
def test_what_is_no_list_of_rules(rules):
    with pytest.raises(TypeError, match='expects rules'):
        compare_editions(rules)


# ---- Letters

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
