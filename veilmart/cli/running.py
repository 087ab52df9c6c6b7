"""Running a node in the foreground: one ready line, JSON logs on stderr, a clean end by signal."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import typer

from common.logs import log_to_stderr
from common.pools import Pools
from veilmart.cli.homes import output


class Run(Protocol):
    """What `broker_node.run.run_broker` and `merchant_node.run.run_merchant` are."""

    def __call__(
        self,
        home: Path,
        stop: threading.Event,
        announce: Callable[[str], None],
        *,
        on_start: Callable[[Pools], None],
    ) -> None:
        """Run until `stop` is set."""


@contextmanager
def stopped_by_signal() -> Iterator[tuple[threading.Event, Callable[[Pools], None]]]:
    """Give an event that SIGTERM and SIGINT set, and what is to be told which pools to wake then."""
    stop = threading.Event()
    started: list[Pools] = []

    def end(_number: int, _frame: object) -> None:
        stop.set()
        for pools in started:
            # A second signal may come when the pools are closed already.
            with contextlib.suppress(OSError):
                pools.wake()

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield stop, started.append
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_node(context: typer.Context, run: Run, home: Path) -> None:
    """Run a node of `home` until a signal ends it."""
    log_to_stderr()
    with stopped_by_signal() as (stop, on_start):
        run(home, stop, announcing(context), on_start=on_start)


def announcing(context: typer.Context) -> Callable[[str], None]:
    """Give what prints the ready line."""
    shown = output(context)
    return lambda line: shown.show({"ready": line}, line)
