"""How often a property is tried, what begins first, and the last line of a test run: the count, in a form that any CI can read."""
import os

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported: tests run side by side, a core each

import pytest
from checkout import python
from hypothesis import settings

# How many examples each property is tried on: a few hundred, the same in each run; or by `make fuzz` as
# many as the variable EXAMPLES says, new ones in each run. A failure prints the line that repeats it; nothing is kept on disk.
settings.register_profile('test', max_examples=300, derandomize=True, deadline=None, database=None, print_blob=True)
settings.register_profile('fuzz', settings.get_profile('test'), derandomize=False, max_examples=int(os.environ.get('EXAMPLES', 20_000)))
settings.load_profile('test')


@pytest.fixture
def pytester_run(tmp_path):
    "Run a test file that fails, given as text, and return what pytest says about it."
    def run_file(source: str) -> str:
        path = tmp_path / 'test_it.py'
        path.write_text(source, encoding='utf-8')
        done = python('-m', 'pytest', '-q', '-p', 'no:cacheprovider', '--rootdir', tmp_path, path)
        assert done.returncode == 1, done.stdout
        return done.stdout
    return run_file


def pytest_collection_modifyitems(items):
    "What is slow begins first, so that no core is left with it at the end."
    items.sort(key=lambda item: item.get_closest_marker('slow') is None)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    "Print the count when all other plugins have had their say. An error (in a fixture, at import) is a failure."
    reporter = config.pluginmanager.get_plugin('terminalreporter')
    if reporter is None or config.option.collectonly:
        return
    count = {outcome: len(reporter.stats.get(outcome, [])) for outcome in ('passed', 'failed', 'error', 'skipped')}
    skipped = f', {count["skipped"]} skipped' if count['skipped'] else ''
    reporter.ensure_newline()
    reporter.write_line(f'{count["passed"]} passed, {count["failed"] + count["error"]} failed{skipped}')
