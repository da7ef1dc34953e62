"""What the tests share: failures that say what to do, copies of this checkout, and commands that run in one."""
import multiprocessing
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from run_notebooks import ROOT

LEFT_OUT = shutil.ignore_patterns('.git', '.venv', '_course', 'build', 'dist', '*.egg-info', '__pycache__', '.pytest_cache', '.ipynb_checkpoints')


def insist(condition, message: str) -> None:
    "Fail with `message` alone unless `condition` holds: what the reader needs is what to do, not where we noticed."
    if not condition:
        pytest.fail(message, pytrace=False)


def copy_checkout(target: Path) -> Path:
    "Copy what belongs to the project to `target`, and return `target`."
    return Path(shutil.copytree(ROOT, target, ignore=LEFT_OUT))


def run(*command, folder: Path) -> subprocess.CompletedProcess:
    "Run `command` in `folder`, whose package it sees, and keep what it prints: output and errors together."
    environment = {**os.environ, 'PYTHONPATH': str(folder)}
    return subprocess.run([str(part) for part in command], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding='utf-8')


def python(*arguments, folder: Path = ROOT) -> subprocess.CompletedProcess:
    "Run the Python that runs this."
    return run(sys.executable, *arguments, folder=folder)


def nbdev(name: str, *arguments, folder: Path = ROOT) -> subprocess.CompletedProcess:
    "Run one of nbdev's commands, from the environment that runs this."
    command = shutil.which(name, path=sysconfig.get_path('scripts'))
    assert command, f'{name} is not installed beside {sys.executable}: pip install -c constraints.txt -e ".[dev]"'
    return run(command, *arguments, folder=folder)


# ---- nbdev_test, a process for each notebook. Where the system can fork, all of them come from one that has imported torch already.

FORKS = 'forkserver' in multiprocessing.get_all_start_methods()
PROCESSES = multiprocessing.get_context('forkserver' if FORKS else 'spawn')
if FORKS:
    PROCESSES.set_forkserver_preload(['nbdev.test', 'nbdev.clean', 'torch', 'sympy', 'matplotlib.pyplot', 'pytest', 'nbclient', 'jupyter_client', 'torch.utils._python_dispatch', 'torch.testing'])


def nbdev_test_alone(path: Path, log: Path) -> tuple[int | None, str]:
    "What `nbdev_test --path path` ends with, and what it says; `log` is a file for that."
    process = PROCESSES.Process(target=_nbdev_test, args=(path, log))
    process.start()
    process.join()
    return process.exitcode, log.read_text(encoding='utf-8')


def _nbdev_test(path, log):
    with open(log, 'w', encoding='utf-8') as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        os.chdir(ROOT)
        from nbdev.test import nbdev_test
        nbdev_test(path=str(path))
        sys.stdout.flush()
        sys.stderr.flush()
