"""What the wallet holds, as it is shown. Asks nobody.

No I/O, clock or randomness but the profile's: `tx` and `now` are arguments.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from common import slots
from common.store import Tx
from customer_node import ageing, crowd, numbers
from customer_node.change import reach
from customer_node.schema import operations
from customer_node.topups import top_up_views
from customer_node.views import CoinStockView, DueView, EndedView, PendingView, WalletView
from customer_node.wallet import TICKET, Stock, Wallet

_PENDING: Final = (
    sa.select(operations.c.kind, operations.c.created)
    .where(operations.c.state == "open")
    .order_by(operations.c.created)
)


def _pending(tx: Tx) -> tuple[PendingView, ...]:
    """List what is still to be answered, the oldest first."""
    found = [PendingView(row["kind"], row["created"], "broker", None) for row in tx.all(_PENDING)]
    found += [
        PendingView("top_up", each.created, each.waits_for, each.waits_until)
        for each in top_up_views(tx)
        if each.waits_for is not None
    ]
    return tuple(sorted(found, key=lambda each: each.since))


def wallet_view(
    tx: Tx, wallet: Wallet, now: int, currency: str, due: tuple[DueView, ...], *, logged_in: bool
) -> WalletView:
    """Count everything."""
    stock, young_until = wallet.stock(tx, now)
    crowds, ending = crowd.bounds(tx, now), wallet.ending(tx, now)
    tickets = stock.pop(TICKET, Stock())
    coins = tuple(
        CoinStockView(value, held.usable, held.young, held.expired, crowds.get(value))
        for (_, value), held in sorted(stock.items(), key=lambda item: item[0][1])
    )
    return WalletView(
        currency=currency,
        usable=sum(coin.value * coin.usable for coin in coins),
        young=sum(coin.value * coin.young for coin in coins),
        reserved=wallet.reserved(tx),
        coins=coins,
        tickets=tickets.usable,
        young_tickets=tickets.young,
        young_until=young_until,
        crowd_at=crowd.counted_at(tx),
        open_operations=wallet.under_way(tx),
        pending=_pending(tx),
        restoring=numbers.restoring(tx),
        logged_in=logged_in,
        exact_up_to=reach(wallet.held(tx, now)),
        ending=sum(value * count for value, count in ending.items()),
        ending_at=slots.month_start(slots.next_month(slots.month_of(now))) if ending else 0,
        ended=tuple(EndedView(each.month, each.at, each.worth, each.lost) for each in ageing.ended(tx, now)),
        due=due,
    )
