"""pytest plugin: a skipped test fails the run unless tests/allowed_skips.txt lists it with a reason.

A skip is a proof that was not made, and nobody reads the letter ``s``.  Loaded by tests/conftest.py:
``pytest_plugins = ["tests.skips"]``.  A line of the list is ``node id | reason``; the id may leave out the
brackets of a parametrised test, or be the file of a module that skips whole.  Tests that are not collected
at all (another directory, ``-k``) are no concern of it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

_LIST = Path(__file__).with_name("allowed_skips.txt")


def read_allowed(path: Path) -> dict[str, str]:
    """Node id -> reason; blank lines and lines that start with ``#`` do not count."""
    allowed: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, bar, reason = (part.strip() for part in line.partition("|"))
        if not (name and bar and reason):
            raise pytest.UsageError(f"{path}, line {number}: not 'node id | reason'")
        allowed[name] = reason
    return allowed


class SkipCheck:
    """Collects what was skipped in one run and judges it at the end."""

    def __init__(self, allowed: dict[str, str]) -> None:
        self._allowed = allowed
        self._refused: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of one test; an expected failure is reported as skipped too, and is none."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self._note(report.nodeid, report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that skipped while it was imported."""
        if report.skipped:
            self._note(report.nodeid, report.longrepr)

    def _note(self, name: str, why: object) -> None:
        names = (name, name.partition("[")[0], name.partition("::")[0])
        if not any(candidate in self._allowed for candidate in names):
            self._refused[name] = str(why[2] if isinstance(why, tuple) else why)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """The run fails, whatever else it was."""
        if self._refused and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Which ones, and why they were skipped."""
        if self._refused:
            terminalreporter.section("skipped, and not in the list of allowed skips", red=True)
            for name, why in self._refused.items():
                terminalreporter.line(f"{name} | {why}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--allowed-skips FILE``: another list, for the tests of this plugin."""
    parser.addoption("--allowed-skips", type=Path, default=_LIST, help="list of tests that may be skipped")


def pytest_configure(config: pytest.Config) -> None:
    """Starts the check."""
    config.pluginmanager.register(SkipCheck(read_allowed(config.getoption("allowed_skips"))), "skip-check")
