"""External test vectors: where they are, and how many a run has checked.

Those of working groups lie in the folder that VEILMART_VECTORS names. Unset, their tests are skipped and
say so; once it is set, a file that is missing there is a failure. The counts travel as properties of the
tests' reports, so that only those of passed tests are added up, whichever process ran them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

RecordProperty: TypeAlias = "Callable[[str, object], None]"
VARIABLE = "VEILMART_VECTORS"
PROPERTY = "external vectors"


def load(path: str) -> Any:
    """Read a JSON file of the external folder, skip the test if no folder is named."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        pytest.skip(f"{VARIABLE} is not set: no folder of external vectors")
    file = Path(folder, path)
    if not file.is_file():
        pytest.fail(f"{VARIABLE} is set, but there is no file {file}")
    return json.loads(file.read_bytes())


def count(record_property: RecordProperty, source: str, checked: int) -> None:
    """Note that the running test has checked so many vectors of a source."""
    record_property(PROPERTY, [source, checked])


def lines(reports: Iterable[pytest.TestReport]) -> list[str]:
    """Give the summary of a run: per source, how many vectors its passed tests checked."""
    totals: Counter[str] = Counter()
    for report in reports:
        for name, value in report.user_properties:
            if name == PROPERTY:
                source, checked = value
                totals[source] += checked
    return [f"external vectors: {source}: {totals[source]} checked" for source in sorted(totals)]
