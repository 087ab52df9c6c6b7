"""What every test run shares."""

from __future__ import annotations

import pytest
import vectors


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in vectors.lines(terminalreporter.stats.get("passed", [])):
        terminalreporter.write_line(line)
