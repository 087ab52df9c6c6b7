"""The broker's store, as the operator's commands work on it: also while the broker runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker_node import run
from broker_node.audit import Audit
from common.config import Limits, load_limits
from common.errors import PaymentsStoppedError, RefusedError, UsageError
from common.market_file import MarketFile
from common.store import Store, Tx
from veilmart import ca
from veilmart.cli.homes import MARKET_FILE, home_of


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


@contextmanager
def broker_snapshot(given: Path | None) -> Iterator[Desk]:
    """Open a transaction that only reads, and holds up nobody however long it takes."""
    with _opened(given) as (store, about), store.snapshot() as tx:
        yield Desk(tx, *about)


@contextmanager
def _opened(given: Path | None) -> Iterator[tuple[Store, tuple[Audit, Limits, str]]]:
    home = home_of(given, "broker")
    if not (home / ca.IDENTITY_KEY_FILE).exists():
        raise UsageError(
            f"There is no broker in {home}.", "Make one with `veilmart init`, or name its --home."
        )
    market, limits = MarketFile.load(home / MARKET_FILE), load_limits(home)
    store = run.open_store(home)
    try:
        yield store, (Audit(market.market_id, limits), limits, market.currency)
    finally:
        store.close()
