"""The last line of a test run is the count, in a form that any CI can read: `N passed, N failed`."""
import pytest


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
