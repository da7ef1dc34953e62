"""The package builds, installs alone into an empty environment, and costs little to import."""
import subprocess
import tarfile
import venv
import zipfile
from configparser import ConfigParser
from email import message_from_bytes

import pytest
from checkout import copy_checkout, insist, python
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from run_notebooks import ROOT
from structure import PACKAGE

pytestmark = pytest.mark.slow
FILES = {path.relative_to(ROOT).as_posix() for kind in ('py', 'pyi', 'css', 'js', 'typed') for path in (ROOT / PACKAGE).rglob(f'*.{kind}')
         if path.name != '_modidx.py'}
MODULES = sorted(file.removesuffix('.py').replace('/', '.') for file in FILES if file.endswith('.py') and not file.endswith('__init__.py'))


# What only works where the style and the script of the stepper were installed, too.
STEPPER = f'''
import torch
from {PACKAGE}.modules import Lin, Model
from {PACKAGE} import trace_backward
trace = trace_backward(Model([Lin(torch.ones(2, 1), torch.ones(1))]), torch.ones(3, 2), torch.ones(3))
assert 'attachShadow' in trace._repr_html_()
'''


def read_settings():
    settings = ConfigParser(delimiters='=')
    settings.read(ROOT / 'settings.ini', encoding='utf-8')
    return settings['DEFAULT']


def requirements():
    "What settings.ini asks for: by '' for the package itself, by the name of the extra otherwise."
    settings = read_settings()
    course = settings['course_requirements'].split()
    wanted = {'': settings['requirements'].split(), 'course': course, 'dev': course + settings['dev_requirements'].split()}
    return {extra: [Requirement(text) for text in texts] for extra, texts in wanted.items()}


def constraints():
    lines = (ROOT / 'constraints.txt').read_text(encoding='utf-8').splitlines()
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, (line for line in lines if line and not line.startswith('#')))}


def test_constraints_pin_what_settings_name():
    wanted = {canonicalize_name(requirement.name): requirement for group in requirements().values() for requirement in group}
    pins = constraints()
    insist(pins.keys() == wanted.keys(), f'settings.ini and constraints.txt name different packages: {sorted(pins.keys() ^ wanted.keys())}')
    for name, pin in pins.items():
        exact = str(pin.specifier).removeprefix('==')
        insist(wanted[name].specifier.contains(exact), f'constraints.txt pins {pin}, settings.ini wants {wanted[name]}')


@pytest.fixture(scope='module')
def distributions(tmp_path_factory):
    "The source distribution, and the wheel that is built from it."
    folder = copy_checkout(tmp_path_factory.mktemp('build') / 'copy')
    stray = folder / '.venv/lib/stray.py'
    stray.parent.mkdir(parents=True)
    stray.touch()
    done = python('-m', 'build', '--outdir', folder / 'dist', folder, folder=folder)
    insist(done.returncode == 0, f'python -m build says:\n{done.stdout[-3000:]}')
    (sdist,), (wheel,) = (folder / 'dist').glob('*.tar.gz'), (folder / 'dist').glob('*.whl')
    return sdist, wheel


def test_sdist(distributions):
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    wanted = {'README.md', 'LICENSE', 'settings.ini', 'constraints.txt', 'setup.py', 'nbs/index.ipynb', 'tests/conftest.py',
              'tools/run_notebooks.py', 'tools/bare', 'nbs/toolbox/checks.ipynb', *FILES}
    insist(not wanted - names, f'the source distribution lacks {sorted(wanted - names)}: see MANIFEST.in')
    strays = sorted(name for name in names if {'.venv', '_course', '__pycache__', '_modidx.py'} & set(name.split('/')))
    insist(not strays, f'the source distribution holds {strays}: see MANIFEST.in')


def test_wheel(distributions):
    with zipfile.ZipFile(distributions[1]) as archive:
        names = archive.namelist()
        metadata = message_from_bytes(archive.read(next(name for name in names if name.endswith('.dist-info/METADATA'))))
    settings = read_settings()
    files = {name for name in names if '.dist-info/' not in name}
    insist(files == FILES, f'the wheel and the checkout differ in {sorted(files ^ FILES)}: see setup.py')
    assert any(name.endswith('LICENSE') for name in names)
    assert (metadata['Name'], metadata['Version']) == (settings['lib_name'], settings['version'])
    assert metadata['Requires-Python'] == f'>={settings["min_python"]}'
    stated = {str(Requirement(text)) for text in metadata.get_all('Requires-Dist')}
    wanted = {str(Requirement(f'{requirement}; extra == "{extra}"' if extra else str(requirement)))
              for extra, group in requirements().items() for requirement in group}
    insist(stated == wanted, f"the wheel's dependencies are not those of settings.ini: {sorted(stated ^ wanted)}")


def test_wheel_alone(distributions, tmp_path):
    "In an environment that holds nothing else, every module imports, and nothing of Jupyter or nbdev came along."
    venv.create(tmp_path / 'empty', with_pip=True)
    alone = next(path for path in (tmp_path / 'empty/bin/python', tmp_path / 'empty/Scripts/python.exe') if path.exists())

    def run(*arguments):
        done = subprocess.run([alone, '-I', *arguments], cwd=tmp_path, capture_output=True, text=True, encoding='utf-8')
        insist(done.returncode == 0, f'{" ".join(map(str, arguments))}\n{done.stdout}{done.stderr}')
        return done.stdout

    run('-m', 'pip', 'install', '--quiet', '--constraint', ROOT / 'constraints.txt', distributions[1])
    for module in MODULES:
        run('-c', f'from {module} import *')
    run('-c', STEPPER)
    installed = run('-c', 'from importlib.metadata import distributions as all\nfor one in all(): print(one.name)')
    names = {canonicalize_name(name) for name in installed.split()}
    own = {canonicalize_name(requirement.name) for requirement in requirements()['']}
    others = {canonicalize_name(requirement.name) for requirement in requirements()['dev']} | {'ipython', 'jupyter-core'}
    insist(own < names and not names & (others - own), f'installed with the package: {sorted(names & others)}')


def test_import_is_cheap():
    "What draws, proves and displays is imported by the functions that need it."
    code = ('import sys, torch; before = set(sys.modules)\n' + '\n'.join(f'import {module}' for module in MODULES)
            + '\nprint(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))')
    done = python('-c', code)
    insist(done.returncode == 0, done.stdout)
    heavy = {'sympy', 'matplotlib', 'IPython', 'sklearn', 'scipy', 'nbdev', 'fastcore', 'safetensors', 'tqdm'} & set(done.stdout.split())
    insist(not heavy, f'import {PACKAGE} imports {sorted(heavy)}: import it inside the function that uses it')
