#!/usr/bin/env python3
"""Buy one product, download it, and keep the receipt. Safe to run again: the same key is the same order.

    export VEILMART_USER=alice VEILMART_PASSWORD_FILE=password
    python examples/buy.py sports PLAN-10K --key tuesday --market market.json --to bought

Files and receipt are named on stdout. What goes wrong is one line on stderr, and the exit code is that of
its kind: 2 the call is wrong, 3 not found, 4 rejected (nothing was paid, or the money is back), 5
authentication, 6 a hop is away and 27 timed out (run it again: the order is taken up where it stands).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from common.money import parse_amount
from customer_node import Market, RejectedError, UsageError, VeilmartError


def log_in(market: Market) -> None:
    """Log in as the environment says; a password is never an argument, which every `ps` would show."""
    name, file = os.environ.get("VEILMART_USER"), os.environ.get("VEILMART_PASSWORD_FILE")
    password = Path(file).read_text().rstrip("\n") if file else os.environ.get("VEILMART_PASSWORD")
    if not name or not password:
        raise UsageError("Set VEILMART_USER, and VEILMART_PASSWORD_FILE or VEILMART_PASSWORD.")
    market.log_in(name, password)


def fill_wallet(market: Market, amount: int) -> None:
    """Draw coins and tickets, if the wallet has too few.

    Better done by a job of its own, hours before: what is drawn and spent at once is easier to tie to you.
    Within the market's minimum age after a visit it is refused (`too_soon`).
    """
    held = market.wallet()
    missing, tickets = amount - held.usable - held.young, held.tickets + held.young_tickets
    if missing <= 0 and tickets:
        return
    log_in(market)
    while missing > 0 or not tickets:
        drawn = market.withdraw()
        missing, tickets = missing - drawn.amount, tickets + max(drawn.tickets, 1)
    market.log_out()


def buy(wanted: argparse.Namespace) -> None:
    """Buy what the command line names."""
    if wanted.market is not None:
        Market.join(wanted.profile, wanted.market)
    with Market(wanted.profile) as market:
        most = parse_amount(wanted.at_most, market.market.currency)
        placed = any(order.idempotency_key == wanted.key for order in market.orders())
        price = None
        if not placed:
            fill_wallet(market, most)
            price = market.show(wanted.merchant, wanted.sku).price
            if price > most:
                raise RejectedError(f"{wanted.sku} costs more than {wanted.at_most}.", "Raise --at-most.")
        order = market.buy_now(wanted.merchant, wanted.sku, idempotency_key=wanted.key, unit_price=price)
        for file in market.download(order.order_id, wanted.to):
            print(file.path)
        receipt = wanted.to / f"receipt-{order.order_id}.json"
        market.export_receipt(order.order_id, receipt)
        print(receipt)


def main() -> int:
    """Read the command line, buy, and give the exit code."""
    parser = argparse.ArgumentParser(description="Buy one product of one merchant.")
    parser.add_argument("merchant")
    parser.add_argument("sku")
    parser.add_argument("--key", required=True, help="the same key is the same order, however often")
    parser.add_argument("--market", type=Path, help="the market file, to join first")
    parser.add_argument("--profile", type=Path, default=Path(os.environ.get("VEILMART_PROFILE", "profile")))
    parser.add_argument("--at-most", default="20.00", help="what it may cost")
    parser.add_argument("--to", type=Path, default=Path("bought"), help="where files and receipt go")
    try:
        buy(parser.parse_args())
    except VeilmartError as error:
        print(f"{error.code}: {error.message} {error.hint}".rstrip(), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
