"""The broker's store, as the operator's commands work on it: also while the broker runs.

What moves money is rehearsed first: done in a transaction that is rolled back. So the question, and a dry
run, show what the rules of the deed itself make of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from broker_node import run
from broker_node.audit import Audit
from common.config import Limits, load_limits
from common.errors import PaymentsStoppedError, RefusedError, UsageError
from common.market_file import MarketFile
from common.store import Store, Tx
from veilmart import ca
from veilmart.cli.consent import agreed
from veilmart.cli.homes import MARKET_FILE, home_of
from veilmart.output import Output

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Desk:
    """One transaction on the broker's store, and what an operator's action needs beside it."""

    tx: Tx
    audit: Audit
    limits: Limits
    currency: str


@contextmanager
def broker_store(given: Path | None) -> Iterator[Desk]:
    """Open one transaction on the store of the broker in `given`, or in the default home."""
    try:
        with _opened(given) as (store, about), store.immediate() as tx:
            yield Desk(tx, *about)
    except RefusedError as error:
        if error.code != "payments_stopped":
            raise
        raise PaymentsStoppedError(
            "Payments are stopped: nothing was changed.", "`veilmart broker ledger check` says why."
        ) from error


class _ForgottenError(Exception):
    """Ends a rehearsal."""


@contextmanager
def _rehearsal(given: Path | None) -> Iterator[Desk]:
    """Open a transaction on the store that is rolled back at its end, whatever was done in it."""
    with contextlib.suppress(_ForgottenError), broker_store(given) as desk:
        yield desk
        raise _ForgottenError


def act_with_consent(
    shown: Output,
    home: Path | None,
    act: Callable[[Desk], Outcome],
    describe: Callable[[Outcome, str], tuple[str, dict[str, Any]]],
    *,
    yes: bool,
    dry_run: bool,
) -> tuple[Outcome, str] | None:
    """Do `act` in one transaction, asked before; gives what came of it and the currency.

    `describe` gives the deed as a sentence and its data, out of a rehearsal. None is the end of a dry run.
    Raises `StoppedError`, `UsageError`, and what `act` raises.
    """
    if dry_run or not yes:
        with _rehearsal(home) as desk:
            deed, data = describe(act(desk), desk.currency)
        if not agreed(shown, deed, data, yes=yes, dry_run=dry_run):
            return None
    with broker_store(home) as desk:
        return act(desk), desk.currency


@contextmanager
def broker_snapshot(given: Path | None) -> Iterator[Desk]:
    """Open a transaction that only reads, and holds up nobody however long it takes."""
    with _opened(given) as (store, about), store.snapshot() as tx:
        yield Desk(tx, *about)


def demand_broker(home: Path) -> Path:
    """Give the home of a broker again. Raises `UsageError` where there is none."""
    if not (home / ca.IDENTITY_KEY_FILE).exists():
        raise UsageError(
            f"There is no broker in {home}.", "Make one with `veilmart init`, or name its --home."
        )
    return home


@contextmanager
def _opened(given: Path | None) -> Iterator[tuple[Store, tuple[Audit, Limits, str]]]:
    home = demand_broker(home_of(given, "broker"))
    market, limits = MarketFile.load(home / MARKET_FILE), load_limits(home)
    store = run.open_store(home)
    try:
        yield store, (Audit(market.market_id, limits), limits, market.currency)
    finally:
        store.close()
