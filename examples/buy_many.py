#!/usr/bin/env python3
"""Place the orders of a CSV file, several at once, each of them once: run again, nothing is bought twice.

    export VEILMART_USER=alice VEILMART_PASSWORD_FILE=password
    python examples/buy_many.py orders.csv --market market.json --profiles profiles --at-once 4

The file has the columns `key`, `merchant`, `sku` and, if wanted, `quantity`. A row's key is what makes it the
same order, however often the file is run. One profile is one wallet that does one thing at a time, so several
orders at once are several profiles: they are made in the folder where there are too few, and each draws coins
from the account where it runs out of them. A row goes to the profile that knows its key already.

Stdout says how many rows were bought, were bought before, and failed; those that failed are in
`orders.failed.csv`, with the reason, which can be run by itself. Exit code: 0 every row is bought, 4 one was
refused, 6 what failed may succeed later, and that of its kind for whatever ends it before the first row.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

from customer_node import AsyncMarket, InsufficientFundsError, OutOfTicketsError, UsageError, VeilmartError


@dataclass(frozen=True)
class Row:
    """An order that is wanted."""

    key: str
    merchant: str
    sku: str
    quantity: int = 1


@dataclass
class Job:
    """What all profiles share: the account, how many orders may be under way, and how the rows went."""

    name: str
    password: str = field(repr=False)
    slots: asyncio.Semaphore
    drawing: asyncio.Lock = field(default_factory=asyncio.Lock)
    bought: int = 0
    repeated: int = 0
    failed: list[tuple[Row, VeilmartError]] = field(default_factory=list)

    async def draw(self, market: AsyncMarket) -> None:
        """Draw a bundle. Better done by a job of its own, hours before (`veilmart wallet tend`)."""
        async with self.drawing:
            await market.log_in(self.name, self.password)
            try:
                await market.withdraw()
            finally:
                await market.log_out()

    async def buy(self, market: AsyncMarket, row: Row) -> None:
        """Buy a row, with more coins where the wallet has too few; the key stays the same."""
        while True:
            try:
                await market.buy_now(row.merchant, row.sku, row.quantity, row.key)
            except (InsufficientFundsError, OutOfTicketsError) as error:
                if error.retry_at is not None:
                    raise  # what was drawn has to rest first
                await self.draw(market)
            else:
                return

    async def work(self, market: AsyncMarket, rows: Iterator[Row]) -> None:
        """Buy the next row, as long as there is one. Other profiles take from the same rows."""
        known = {order.idempotency_key for order in await market.orders() if order.state != "refused"}
        for row in rows:
            async with self.slots:
                try:
                    await self.buy(market, row)
                except VeilmartError as error:
                    self.failed.append((row, error))
                else:
                    self.repeated += row.key in known
                    self.bought += row.key not in known

    async def place(self, profiles: Sequence[Path], rows: Sequence[Row]) -> None:
        """Buy all rows."""
        async with AsyncExitStack() as stack:
            markets = [await stack.enter_async_context(AsyncMarket(profile)) for profile in profiles]
            keys = [{order.idempotency_key for order in await market.orders()} for market in markets]
            new = iter([row for row in rows if not any(row.key in theirs for theirs in keys)])
            old = [iter([row for row in rows if row.key in theirs]) for theirs in keys]
            await asyncio.gather(*map(self.work, markets, [chain(its, new) for its in old]))


def read(path: Path) -> list[Row]:
    """Read the rows, all of them, before any is bought."""
    rows: dict[str, Row] = {}
    with path.open(newline="") as file:
        for number, line in enumerate(csv.DictReader(file), start=2):
            try:
                row = Row(line["key"], line["merchant"], line["sku"], int(line.get("quantity") or 1))
            except (KeyError, ValueError) as error:
                raise UsageError(f"{path}, line {number}: {error}") from None
            if not row.key or rows.setdefault(row.key, row) != row:
                raise UsageError(f"{path}, line {number}: the key {row.key!r} stands for another row.")
    return list(rows.values())


def write(path: Path, failed: Sequence[tuple[Row, VeilmartError]]) -> None:
    """Write what failed, and why."""
    with path.open("w", newline="") as file:
        lines = csv.DictWriter(file, ["key", "merchant", "sku", "quantity", "code", "error"])
        lines.writeheader()
        for row, error in failed:
            lines.writerow(asdict(row) | {"code": error.code, "error": error.message})


async def run(wanted: argparse.Namespace, password: str) -> int:
    """Read, buy, and say how it went."""
    rows = read(wanted.orders)
    profiles = sorted(path.parent for path in wanted.profiles.glob("*/market.json"))
    if not profiles and wanted.market is None:
        raise UsageError(f"{wanted.profiles} has no profiles.", "Name a --market to make them with.")
    for number in range(len(profiles), wanted.at_once if wanted.market else 0):
        profiles.append(wanted.profiles / f"{number + 1:03}")
        await AsyncMarket.join(profiles[-1], wanted.market)
    job = Job(os.environ.get("VEILMART_USER", ""), password, asyncio.Semaphore(wanted.at_once))
    await job.place(profiles, rows)
    write(wanted.orders.with_suffix(".failed.csv"), job.failed)
    print(f"{len(rows)} rows: {job.bought} bought, {job.repeated} bought before, {len(job.failed)} failed")
    if not job.failed:
        return 0
    return 6 if all(error.retryable for _, error in job.failed) else 4


def main() -> int:
    """Read the command line and give the exit code."""
    parser = argparse.ArgumentParser(description="Place the orders of a CSV file, each of them once.")
    parser.add_argument("orders", type=Path, help="a CSV file: key, merchant, sku and quantity")
    parser.add_argument("--market", type=Path, help="the market file, to make profiles with")
    parser.add_argument("--profiles", type=Path, default=Path("profiles"), help="the folder of the profiles")
    parser.add_argument("--at-once", type=int, default=4, help="how many orders are under way at most")
    wanted = parser.parse_args()
    file = os.environ.get("VEILMART_PASSWORD_FILE")
    try:
        password = Path(file).read_text().rstrip("\n") if file else os.environ.get("VEILMART_PASSWORD", "")
        return asyncio.run(run(wanted, password))
    except (VeilmartError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, VeilmartError) else 2


if __name__ == "__main__":
    sys.exit(main())
