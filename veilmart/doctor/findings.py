"""What a check finds.

ok               looked at, and as it should be
warning          works, and will not for ever or not as well as it could
problem          does not work, or is not safe; `error` is the error that says so, with its exit code
not_applicable   nothing of the kind is here, or it cannot be seen from here
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from common.errors import VeilmartError

Result: TypeAlias = Literal["ok", "warning", "problem", "not_applicable"]
Group: TypeAlias = Literal["homes", "settings", "bus", "clock", "keys", "disk", "versions"]

GROUPS: Final[tuple[Group, ...]] = ("homes", "settings", "bus", "clock", "keys", "disk", "versions")


@dataclass(frozen=True)
class Finding:
    """One check's result. `advice` is what to do, empty where there is nothing to do."""

    group: Group
    check: str
    result: Result
    detail: str
    advice: str = ""
    error: VeilmartError | None = None


@dataclass(frozen=True)
class Check:
    """A check that is being made: gives its findings."""

    group: Group
    name: str

    def ok(self, detail: str) -> Finding:
        """Say that all is as it should be."""
        return Finding(self.group, self.name, "ok", detail)

    def warning(self, detail: str, advice: str) -> Finding:
        """Say that it works for now."""
        return Finding(self.group, self.name, "warning", detail, advice)

    def problem(self, detail: str, advice: str, kind: type[VeilmartError] = VeilmartError) -> Finding:
        """Say that it does not work; `kind` decides what the command ends with."""
        return self.failed(kind(f"{self.name}: {detail}", advice), detail)

    def failed(self, error: VeilmartError, detail: str = "") -> Finding:
        """Say what was raised when it was tried."""
        return Finding(
            self.group, self.name, "problem", detail or error.message, error.hint or "See the message.", error
        )

    def not_applicable(self, detail: str, advice: str = "") -> Finding:
        """Say that there is nothing to look at."""
        return Finding(self.group, self.name, "not_applicable", detail, advice)


def first_problem(findings: Iterable[Finding]) -> VeilmartError | None:
    """Give the error of the first problem, which the command ends with."""
    return next((each.error for each in findings if each.error is not None), None)
