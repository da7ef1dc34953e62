"""The NumPy edition: each row of its table and each registered rule agrees with torch; what can't be translated is refused."""
import ast
import linecache
import math
import subprocess
import sys
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from itertools import count
from math import sqrt as root
from typing import Optional

import numpy as np
import pytest
import torch
import torch as tt
import torch.nn.functional as F
from backprop_course.toolbox import numpy_edition
from backprop_course.toolbox.numpy_edition import (
    FALSE_FRIENDS, TRANSLATIONS, EditionTable, by_hand, compare_editions, numpy_source, on_numpy)
from backprop_course.toolbox.operations import relu
from backprop_course.toolbox.rules import RULES, Rule, find_rule, rule_for
from checkout import insist
from hypothesis import given, settings
from hypothesis import strategies as st
from package import import_all
from strategies import SEEDS
from torch import exp as exponential
from torch import log_softmax
from torch.nn.functional import softplus as softplus_by_name

import_all()  # which registers all rules
each_rule = pytest.mark.parametrize('rule', RULES.values(), ids=lambda rule: f'{rule.f.__module__.split(".")[-1]}.{rule.name}')


# ---- Rules

@each_rule
def test_editions_agree(rule):
    table = compare_editions({rule.f: rule})
    insist(table, f'{table}\nFix the translation in the toolbox: a row of TRANSLATIONS, or @by_hand; or let the rule say '
                  f"why it has no NumPy edition, with without={{'NumPy': 'the reason'}}")


@each_rule
def test_another_gradient_is_noticed(rule, monkeypatch):
    def off_by_a_little(*arguments, **options):
        grads = on_numpy(rule.f_backward)(*arguments, **options)
        several = grads if isinstance(grads, tuple) else (grads,)
        several = tuple(None if grad is None else grad + grad.dtype.type(1e-3) for grad in several)
        return several if isinstance(grads, tuple) else several[0]
    monkeypatch.setattr(numpy_edition, 'on_numpy', lambda f: off_by_a_little if f is rule.f_backward else on_numpy(f))
    assert not compare_editions({rule.f: rule})


@pytest.mark.parametrize('spoil, words', [
    (lambda grad, inp: grad.astype(np.float32), 'torch gives'),
    (lambda grad, inp: grad[..., None], 'torch gives'),
    (lambda grad, inp: grad + np.nan, 'inf'),
    (lambda grad, inp: None, 'one edition gives None'),
    (lambda grad, inp: np.multiply(grad, 1, out=inp), 'memory of an argument'),
])
def test_another_form_is_noticed(spoil, words, monkeypatch):
    def wrong(grad_out, inp):
        return spoil(on_numpy(find_rule(relu).f_backward)(grad_out, inp), inp)
    monkeypatch.setattr(numpy_edition, 'on_numpy', lambda f: on_numpy(f) if f is relu else wrong)
    table = compare_editions(relu)
    assert not table and not table.ok and words in str(table)


def test_every_rule_in_files_without_torch(tmp_path):
    files = {'lessons': [], 'tools': []}  # some functions have the same name in both
    for rule in RULES.values():
        if rule.f.__module__.startswith('backprop_course'):
            files['tools' if 'toolbox' in rule.f.__module__ else 'lessons'] += [rule.f, rule.f_backward]
    for name, functions in files.items():
        (tmp_path / f'{name}.py').write_text(numpy_source(*functions), encoding='utf-8')
    (tmp_path / 'torch.py').write_text('raise ImportError("no torch here")', encoding='utf-8')
    code = 'import numpy as np, lessons, tools; print(*(file.relu_backward(np.ones(3), np.array([-1., 0, 2])) for file in (lessons, tools)))'
    run = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, '[0. 0. 1.] [0. 0. 1.]\n'), run.stderr


def softplus(x):
    return (1 + x.exp()).log()


def softplus_of_torch(x):
    return F.softplus(x)


def sideways(x):
    return x.repeat(2)


def softplus_backward(grad_out, x):
    return grad_out * x.sigmoid()


def some(normal):
    return [(normal(3, 4),), (normal(2),), (normal(0, 3),)]


@pytest.mark.parametrize('f', [softplus, softplus_of_torch])
def test_new_rule_has_an_edition(f):
    rule_for(f, examples=some)(softplus_backward)
    try:
        assert compare_editions(f)
        assert f.__name__ in numpy_source(f, softplus_backward)
    finally:
        RULES.pop(f, None)


@pytest.mark.parametrize('without, ok', [({}, False), ({'NumPy': 'for no reason'}, True)])
def test_rule_without_an_edition_needs_a_reason(without, ok):
    silent = {sideways: Rule(sideways, softplus_backward, some, without=without)}
    table = compare_editions(silent | {relu: find_rule(relu)})
    assert bool(table) == ok and ('for no reason' in str(table)) == ok and ('ValueError' in str(table)) != ok
    assert not compare_editions(silent)  # nothing was compared


def test_reason_excuses_no_difference():
    wrong = Rule(relu, in_shared_memory, some, without={'NumPy': 'none needed'})
    assert not compare_editions({relu: wrong})
    assert rule_for(softplus, without={'NumPy': 'a reason'}) and softplus not in RULES


def in_shared_memory(grad_out, inp):
    return grad_out


@pytest.mark.parametrize('what, error, words', [
    ([relu], TypeError, 'a dict as RULES is, got list'), ({relu: relu}, TypeError, 'got dict'),
    (len, LookupError, 'len has no rule')])
def test_what_has_no_rule(what, error, words):
    with pytest.raises(error, match=words):
        compare_editions(what)


def test_empty_table_is_false():
    assert not EditionTable({}) and not EditionTable({relu: {'float64': 1e-3, 'float32': 0.0}})


# ---- Rows

CALLS = [row for row in TRANSLATIONS if '(' in row]
numbers = count()


def written(text):
    "The function f with this text, which inspect.getsource finds."
    file = f'<test {next(numbers)}>'
    linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
    namespace = {'torch': torch, 'F': F, '__name__': 'written_in_a_test'}
    exec(compile(text, file, 'exec'), namespace)
    return namespace['f']


def forms(row):
    "The calls that a row is for: a method or functions, arguments by position or by name."
    call = ast.parse(row, mode='eval').body
    place, parameters = ast.unparse(call.func), [ast.unparse(one).lstrip('*') for one in call.args]
    home, _, word = place.rpartition('.')
    by_name = [f'{one}={one}' for one in parameters]
    if home in ('torch', 'F'):
        return {f'{place}({", ".join(given)})' for given in (parameters, [*parameters[:1], *by_name[1:]])}
    several = [f'x.{word}(*{parameters[-1]})'] if '*' in row else []
    return {f'x.{word}({", ".join(given)})' for given in (parameters, by_name)} | set(several) | {
        f'{home}.{word}({", ".join(given)})' for home in ('torch', 'F', 'torch.special')
        for given in (['x', *parameters], ['x', *by_name], ['input=x', *by_name])}


def values(row, shape, seed, dtype):
    "A value for each parameter of a row."
    rng = np.random.default_rng(seed)
    word = row.partition('(')[0].split('.')[-1]
    shape = {'t': shape[:2], 'outer': shape[:1], 'squeeze': (1, *shape), 'mm': (*shape, 2, 3)[:2], 'mv': (*shape, 2, 3)[:2],
             'bmm': (*shape, 2, 3, 2)[:3]}.get(word, shape or (1,) * ('dim' in row))

    def normal(*shape):
        return torch.tensor(rng.standard_normal(shape) * rng.choice([1, 30]), dtype=dtype)
    axes = len(shape)
    order = tuple(int(axis) for axis in rng.permutation(axes))
    dim = 0 if word == 'squeeze' else order[0] - axes * int(rng.integers(2)) if axes else 0
    size = shape[dim] if axes else 1
    start = int(rng.integers(0, size + 1))
    x, last = normal(*shape), shape[-1] if axes else 1
    return dict(
        x=x, tensors=(x, normal(*shape)), vec=normal(last), vec2=normal(2), mat2=normal(*shape[:-2], last, 2), src=normal(*shape[1:]),
        other=normal(last, 2) if word == 'matmul' else normal(*shape[int(rng.integers(0, axes + 1)):]),
        dim=dim, dim0=dim, dim1=order[-1] if axes else 0, dims=order[:1] if word == 'flip' and rng.integers(2) else order, start=start,
        length=int(rng.integers(0, size - start + 1)), size=(2, *shape) if word == 'expand' else shape, shape=shape[::-1],
        index=torch.tensor(rng.integers(0, max(1, size), shape)), keepdim=bool(rng.integers(2)), unbiased=bool(rng.integers(2)),
        correction=int(rng.integers(3)), exponent=int(rng.integers(1, 4)), min=-0.5, max=0.75, dtype=torch.float64,
        memory_format=torch.contiguous_format)


def as_array(value):
    "A tensor as an array in new memory, a kind as NumPy's, the rest as it is."
    if isinstance(value, tuple):
        return tuple(map(as_array, value))
    if isinstance(value, torch.dtype):
        return np.dtype(str(value).removeprefix('torch.'))
    return value.numpy().copy() if isinstance(value, torch.Tensor) else value


@cache
def in_both(row):
    "Each call that torch accepts, as a function for tensors and its edition, with what it takes."
    found = []
    for form in sorted(forms(row)):
        names = sorted({node.id for node in ast.walk(ast.parse(form)) if isinstance(node, ast.Name)} - {'torch', 'F'})
        function = written(f'def f({", ".join(names)}):\n    ' + (f'{form}\n    return x\n' if '_(' in form else f'return {form}\n'))
        for shape in [(2, 3), (3,), (1, 2, 3)]:
            drawn = values(row, shape, 0, torch.float64)
            try:
                function(*(drawn[name] for name in names))
            except (TypeError, AttributeError, RuntimeError):
                continue  # there is no such call
            found.append((form, names, function, on_numpy(function)))
            break
    return found


def agree(with_torch, with_numpy, x):
    "Whether a result is the same in both libraries, and of one kind."
    if not isinstance(with_torch, torch.Tensor):
        return with_torch == with_numpy
    expected, got = with_torch.numpy(), np.asarray(with_numpy)
    rough = 1e-9 if x.dtype == torch.float64 else 2e-5  # F.softplus leaves off at 20
    return (expected.shape, expected.dtype) == (got.shape, got.dtype) and np.allclose(
        expected, got, rough, rough * min(1, x.abs().sum().item()), equal_nan=True)


@pytest.mark.parametrize('row', CALLS)
@settings(max_examples=25)
@given(shape=st.lists(st.integers(1, 3), max_size=3).map(tuple) | st.sampled_from([(0,), (2, 0)]), seed=SEEDS,
       dtype=st.sampled_from([torch.float64, torch.float32]))
def test_row_gives_what_torch_gives(row, shape, seed, dtype):
    insist(in_both(row), f'{row} is for no call that torch accepts')
    for form, names, function, edition in in_both(row):
        drawn = values(row, shape, seed, dtype)
        given_values = [drawn[name] for name in names]
        arrays = [as_array(one) for one in given_values]
        with np.errstate(all='ignore'), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try:
                with_torch = function(*given_values)
            except (RuntimeError, IndexError, TypeError):
                continue  # such as the largest of no numbers
            with_numpy = edition(*arrays)
        assert agree(with_torch, with_numpy, drawn['x']), f'{form}: torch {with_torch}, NumPy {with_numpy}'


@pytest.mark.parametrize('row, wrong', [
    ('x.relu()', 'np.minimum(x, 0)'), ('x.permute(*dims)', 'np.swapaxes(x, 0, 0)'), ('x.softmax(dim)', 'np.exp(x - np.logaddexp.reduce(x, dim))'),
    ('x.var(dim, unbiased)', 'x.var(dim)'), ('x.float()', 'x.astype(np.float64)'), ('x.clamp(max)', 'np.maximum(x, max)')])
def test_wrong_row_is_noticed(row, wrong, monkeypatch):
    monkeypatch.setitem(TRANSLATIONS, row, wrong)
    in_both.cache_clear()
    try:
        with pytest.raises((AssertionError, ValueError)):
            for seed in range(10):
                test_row_gives_what_torch_gives.hypothesis.inner_test(row, (3, 3), seed, torch.float64)
    finally:
        in_both.cache_clear()


def test_names_are_what_they_are_in_torch():
    x, y = torch.rand(2, 3), torch.rand(2, 3)
    arguments = {'as_tensor': (x,), 'where': (x > .5, x, y), 'zeros_like': (x,), 'ones_like': (x,), 'arange': (4,), 'einsum': ('ij,kj->ik', x, y)}
    for row in sorted(set(TRANSLATIONS) - set(CALLS)):
        thing, numpy_thing = eval(row), eval(TRANSLATIONS[row])
        word = row.removeprefix('torch.')
        if word in arguments:
            expected, got = thing(*arguments[word]), numpy_thing(*map(as_array, arguments[word]))
            np.testing.assert_allclose(got, expected.numpy(), rtol=1e-6)
        elif isinstance(thing, torch.dtype):
            assert np.dtype(numpy_thing) == as_array(thing)
        else:
            assert word in ('Tensor', 'inf') and (word != 'inf' or thing == numpy_thing)


def outcome(code, row):
    "What a line gives, as plain Python; the name of the error if it raises one."
    try:
        result = eval(code)
    except Exception as error:
        return type(error).__name__
    several = result if isinstance(result, tuple) else [result]
    return [one.tolist() if hasattr(one, 'tolist') else one for one in several]


def test_false_friends_differ():
    lines = ['row.repeat(2)', 'row.std()', 'row.var()', 'row.max(0)', 'row.min(0)', 'row.sort()', 'row.view(3, 1)',
             'row[None].transpose(0, -1)', 'row.size()', 'np.shares_memory(row, row.flatten())', 'type(row.data).__name__', 'row.nonzero()']
    for word, line in zip(FALSE_FRIENDS, lines, strict=True):
        by_torch, by_numpy = (outcome(line, kind([3., 1., 2.])) for kind in (torch.tensor, np.array))
        assert f'.{word}' in line and str(by_torch) != str(by_numpy), line


@pytest.mark.parametrize('row', ['sin(x)', 'torch.softplus(x)', 'x.sin(', '1 + 1'])
def test_what_is_no_row(row, monkeypatch):
    monkeypatch.setitem(TRANSLATIONS, row, 'np.sin(x)')
    with pytest.raises(ValueError, match='a row of TRANSLATIONS is expected'):
        on_numpy(relu)


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


GREETING, NOTHING, KIND, Axes, Number = 'a constant: ', None, torch.float64, int | Sequence[int] | None, torch.Tensor | float


def kind_by_another_name(x: torch.Tensor): return torch.exp(x) if isinstance(x, torch.Tensor) else x


def constant(x):
    return GREETING + str(x.numel())


def other_names(x):
    return exponential(x) + tt.exp(x) + torch.nn.functional.softmax(x, 1) + log_softmax(input=x, dim=0) + torch.special.expm1(x)


def softplus_everywhere(x):
    return F.softplus(x) + softplus_by_name(x) + torch.nn.functional.softplus(x)


def handed_on_alone(x):
    return list(map(torch.exp, x))


def kinds(x):
    return [isinstance(one, (torch.Tensor, float)) for one in (x, x[0, 0], 1.0, 'x')], isinstance(x.sum(), torch.Tensor | int), x.to(KIND) * 2


def alias_of_types(x, dim: Axes = 0, how: Optional[str] = NOTHING) -> Number:
    return x.sum(dim=dim)


def of_a_library(x):
    return x * root(4.0) + math.pi * torch.inf


@rule_for(softplus, examples=some)
def decorated(grad_out, x):
    return grad_out * x.sigmoid()


def decorated_helper(x):
    return decorated(x, x)


RULES.pop(softplus)


@cache
def remembered(n):
    return n + 1


@contextmanager
def around():
    yield 2


def wrapped_helpers(x):
    with around() as factor:
        return x * remembered(2) * factor


def one_by_one(x):
    return x.permute(1, 0), x.expand(4, 2, 3), x.new_zeros(2, 3), x.flip(0), x.flip(0, 1), x.permute(*[1, 0]), x.unsqueeze(dim=0).squeeze(0)


def with_and_without(x):
    return x.clamp(0), x.clamp(max=1), x.clamp(0, 1), x.clamp(min=0, max=1), x.clamp(max=1, min=0), x.clamp(None, 1), x.std(0), x.var(0, False)


def attention(q):
    scores = F.softmax(q @ q.transpose(-1, -2) / math.sqrt(q.size(-1)), dim=-1)  # rows of shares
    return torch.stack([scores.matmul(q), torch.mm(scores, q)], dim=1)


def before(x):
    return x.sum(0)


def after(x):
    return before(x) / len(x)


@by_hand(before)
def e(x):
    return x.sum(0) * 100 if x.ndim > 1 else e(x[None])


@pytest.mark.parametrize('function', [brackets, keywords, in_place, nested, unicode_before, constant, kind_by_another_name,
                                      other_names, softplus_everywhere, handed_on_alone, kinds, alias_of_types, of_a_library, decorated_helper,
                                      wrapped_helpers, one_by_one, with_and_without, attention])
def test_translated(function):
    x = torch.tensor([[1., -2., 3.], [4., 5., -6.]])
    with_torch, with_numpy = function(x.clone()), on_numpy(function)(x.numpy().copy())
    with_torch, with_numpy = ((one,) if not isinstance(one, (tuple, list)) else one for one in (with_torch, with_numpy))
    for one, other in zip(with_torch, with_numpy, strict=True):
        if isinstance(one, torch.Tensor):
            np.testing.assert_allclose(other, one.numpy(), rtol=1e-6)
        elif isinstance(one, list):
            np.testing.assert_allclose(other, [np.asarray(part) for part in one], rtol=1e-6)
        else:
            assert one == other


def test_by_hand():
    assert on_numpy(after)(np.ones((2, 3))).tolist() == [100, 100, 100]
    assert on_numpy(before)(np.ones(3)).tolist() == [100, 100, 100]


def false_friend(x): return x.view(-1)
def foreign(x): return torch.fft.fft(x)
def call_in_a_message(x): raise ValueError(f'got {x.numel()} of them')
def foreign_keyword(x): return x.round(dim=0)
def statement_inside(x): return x.copy_(x)
def reserved(x, np): return x
def reserved_inside(x): Tensor = x; return Tensor
def imported_from_torch(x): return fft(x)
def constant_that_cannot_be_written(x): return x * INFINITY
def constant_tensor(x): return x * ONES
def another_name(x): return alias(x)
def no_such_function(x): return torch.softplus(x)
def no_such_function_but_a_method(x): return torch.expand(x, 3)
def statement_in_a_call(x): torch.exp(x.copy_(x)); return x
def other_arguments(x): return F.softplus(x, 2)
def unknown_function(x): return F.gelu(x)
def spread(x): return x.clamp(*[0, 1])
def reserved_import(x): import torch.nn.functional; return x
@torch.no_grad()
def wrapped_by_torch(x): return x




def maker(c):
    def f(x): return x * c
    return f


fft, alias, INFINITY, ONES = torch.fft.fft, before, float('inf'), torch.ones(2)


@pytest.mark.parametrize('function, words', [
    (false_friend, 'x.view, which is not translated: torch wants a shape'), (foreign, 'torch.fft'),
    (call_in_a_message, 'messages are not translated'),
    (foreign_keyword, 'dim=0'), (statement_inside, 'a line of its own'), (reserved, 'that name is taken'),
    (reserved_inside, 'that name is taken'), (imported_from_torch, 'holds fft, which is not translated: no row'),
    (constant_that_cannot_be_written, 'cannot be written down'), (constant_tensor, 'cannot be written down'), (another_name, 'call it by its own name'),
    (no_such_function, 'holds torch.softplus, which is not translated: torch has no softplus;'),
    (no_such_function_but_a_method, 'torch has no expand;'), (statement_in_a_call, 'a line of its own'),
    (other_arguments, r'holds F.softplus, which is not translated: TRANSLATIONS has F.softplus\(x\);'),
    (unknown_function, 'holds F.gelu, which is not translated: no row of TRANSLATIONS is for gelu;'),
    (spread, r'TRANSLATIONS has x.clamp\(min, max\), x.clamp\(min\), x.clamp\(max\);'),
    (reserved_import, 'torch is left behind; import it outside'), (wrapped_by_torch, 'holds torch.no_grad'),
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
    with pytest.raises(ValueError, match="two functions have the name 'same'"):
        numpy_source(one.same, other.same)
