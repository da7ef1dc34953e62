"""mypy passes on the package, and finds a wrong call of it."""
import re

import pytest
from checkout import insist, python

pytestmark = pytest.mark.slow

WRONG = {
    'check_gradient(3, 4)': '"int"; expected "Callable',
    'explain_broadcast("ab")': 'incompatible type "str"',
    'numerical_gradient(torch.sum, 3.0)': '"float"; expected "Tensor"',
}


def test_package():
    done = python('-m', 'mypy')
    insist(done.returncode == 0, done.stdout)


def test_wrong_calls_are_found(tmp_path):
    lines = ['import torch', 'from backprop_course import check_gradient, explain_broadcast, numerical_gradient', *WRONG,
             'check_gradient(torch.exp, lambda grad_out, x: grad_out * x.exp(), torch.ones(2))']
    (tmp_path / 'wrong.py').write_text('\n'.join(lines), encoding='utf-8')
    done = python('-m', 'mypy', '--config-file', 'pyproject.toml', tmp_path / 'wrong.py')
    found: dict[int, str] = {}  # what is said about each line
    for place, words in re.findall(r'wrong\.py:(\d+): error: (.*)', done.stdout):
        found[int(place)] = found.get(int(place), '') + words
    assert list(found) == [place for place, line in enumerate(lines, start=1) if line in WRONG], done.stdout
    for said, words in zip(found.values(), WRONG.values()):
        assert words in said, said
