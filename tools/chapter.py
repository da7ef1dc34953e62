"""Run a notebook, store what it gives, clean, export, and test it: what a change of a notebook needs, in one command.

    python tools/chapter.py 02                every notebook whose name begins so, here nbs/02_broadcasting.ipynb
    python tools/chapter.py toolbox/checks    a tool
    python tools/chapter.py index             the index, and README.md with it

Outputs that only vary (cells with `#| varies`, such as timings) stay as they are committed while their cell does.
"""
import argparse
import shutil
import subprocess
import sys
import sysconfig

from run_notebooks import NOTEBOOKS, ROOT, find_notebooks, name_of, run_notebook, store


def call(*command: str) -> None:
    "Run a command in the checkout, and end here with its status if it fails."
    print('$', ' '.join(command), flush=True)
    done = subprocess.run([shutil.which(command[0], path=sysconfig.get_path('scripts')) or command[0], *command[1:]], cwd=ROOT)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('name', help='how the name of the notebook begins, such as 02 or toolbox/checks')
    name = parser.parse_args().name.removeprefix('nbs/').removesuffix('.ipynb')
    paths = [path for path in find_notebooks() if name_of(path) == name] or [
        path for path in find_notebooks() if name_of(path).startswith(name)]
    if not name or not paths:
        parser.error(f'no notebook begins with {name!r}; there are {", ".join(map(name_of, find_notebooks()))}')
    for path in paths:
        print(f'{name_of(path)} ...', end=' ', flush=True)
        run = run_notebook(path)
        print(f'failed\n{run.error}' if run.error else f'ok, {run.seconds:.1f} s', flush=True)
        if run.error:
            sys.exit(1)
        store(run)
        call('nbdev_clean', '--fname', str(path))
    call('nbdev_export')
    if NOTEBOOKS / 'index.ipynb' in paths:
        call(sys.executable, 'tools/write_readme.py')
    names = [name_of(path) for path in paths]
    modules = {one.rpartition('/')[2] if '/' in one else one.partition('_')[2] for one in names}
    own = [f'tests/test_{module}.py' for module in sorted(modules) if (ROOT / f'tests/test_{module}.py').exists()]
    call(sys.executable, '-m', 'pytest', '-q', 'tests/test_structure.py', 'tests/test_notebooks.py', *own,
         '-k', ' or '.join([*(f'[{one}]' for one in names), *(f'test_{module}.py' for module in sorted(modules))]).replace('[', '').replace(']', ''))


if __name__ == '__main__':
    main()
