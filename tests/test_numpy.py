"""The NumPy edition: each rule of the package, translated, agrees with the original; what can't be translated is refused."""
import subprocess
import sys

import numpy as np
import pytest
import sympy
import torch
from backprop_course import numpy_edition
from backprop_course.backward import RULES
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

def power_of_a_sum(x):
    return (x + 1).pow(2).sum(0, keepdim=True).mean()


def with_a_view(x):
    return x.view(-1)


def with_a_foreign_word(x):
    return torch.fft.fft(x)


def with_a_call_in_a_message(x):
    raise ValueError(f'got {x.numel()} of them')


def with_a_kind(x: torch.Tensor = None):
    return torch.float32 if isinstance(x, torch.Tensor) else None


GREETING = 'with a constant: '


def with_a_constant(x):
    return GREETING + str(x.numel())


def before(x):
    return x.sum(0)


def after(x):
    return before(x) / len(x)


@by_hand(before)
def _before(x):
    return x.sum(0) * 100


def test_parentheses():
    assert on_numpy(power_of_a_sum)(np.ones((2, 3))) == 8


def test_constants_and_helpers():
    assert on_numpy(with_a_constant)(np.ones(3)) == 'with a constant: 3'
    assert on_numpy(after)(np.ones((2, 3))).tolist() == [100, 100, 100]


@pytest.mark.parametrize('function, words', [
    (with_a_view, 'x.view, which is not translated: torch wants a shape'),
    (with_a_foreign_word, 'torch.fft'),
    (with_a_call_in_a_message, 'x.numel()'),
    (with_a_kind, 'torch.Tensor'),
])
def test_untranslatable(function, words):
    with pytest.raises(ValueError, match=words.replace('(', r'\(').replace(')', r'\)')):
        on_numpy(function)


# ---- Letters

def test_letters():
    x = letters('x', 2)
    x_0, x_1 = x
    assert on_numpy(relu)(x)[0] == sympy.Max(0, x_0)
    assert (np.exp(x) / 2).sum()[()] == (sympy.exp(x_0) + sympy.exp(x_1)) / 2
    assert np.where(x > 0, x, 0)[1] == sympy.Piecewise((x_1, x_1 > 0), (0, True))
    places = np.array([0, 0])
    added = np.zeros(2, object)
    np.add.at(added, places, x)
    assert added.tolist() == [x_0 + x_1, 0]


@pytest.mark.parametrize('unknown', [np.any, np.sin, np.argmax, np.sort, lambda x: np.clip(x, 0, 1)],
                         ids='any sin argmax sort clip'.split())
def test_unknown_on_letters_is_refused(unknown):
    with pytest.raises(TypeError):
        unknown(letters('x', 2))


def test_derivation():
    g, x = letters('g', 2), letters('x', 2)
    steps = dict(derivation(RULES[relu].f_backward, g, x).steps)
    assert list(steps) == ['inp > 0', 'grad_out * (inp > 0)']
    assert steps['grad_out * (inp > 0)'][1] == sympy.Piecewise((g[1], x[1] > 0), (0, True))
    with pytest.raises(ValueError, match='expects letters'):
        derivation(relu, np.ones(2))
