"""The states of an order as each party sees them, and of an account: tables that one reads at a glance.

A step that is not listed raises `UnlistedStepError`. Asked for by a peer, a node refuses it with a typed
answer before it comes to this; asked for by our own code, it is a bug, and the node stops.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

Table = Mapping[str, frozenset[str]]

BROKER_ORDER: Final[Table] = {
    "held": frozenset({"captured", "refundable"}),
    "captured": frozenset({"settled", "disputed", "refunded"}),
    "disputed": frozenset({"settled", "refunded"}),
    "settled": frozenset({"refunded"}),
    "refundable": frozenset({"refunded"}),
    "refunded": frozenset(),
}

MERCHANT_ORDER: Final[Table] = {
    "received": frozenset({"accepted", "rejected"}),
    "accepted": frozenset({"captured", "cancelled"}),
    "captured": frozenset({"delivered", "refunded"}),
    "delivered": frozenset({"refunded"}),
    "refunded": frozenset(),
    "rejected": frozenset(),
    "cancelled": frozenset(),
}

CUSTOMER_ORDER: Final[Table] = {
    "draft": frozenset({"placed", "refused"}),
    "refused": frozenset({"placed"}),
    "placed": frozenset({"accepted", "refundable", "disputed"}),
    "accepted": frozenset({"downloading", "disputed", "refunded"}),
    "downloading": frozenset({"complete", "disputed", "refunded"}),
    "disputed": frozenset({"complete", "refunded"}),
    "complete": frozenset({"refunded"}),
    "refundable": frozenset({"refunded"}),
    "refunded": frozenset(),
}

PAYOUT: Final[Table] = {
    "requested": frozenset({"confirmed", "rejected"}),
    "confirmed": frozenset(),
    "rejected": frozenset(),
}

MERCHANT_PAYOUT: Final[Table] = {
    "asked": frozenset({"requested", "confirmed", "rejected", "refused"}),
    "requested": frozenset({"confirmed", "rejected"}),
    "confirmed": frozenset(),
    "rejected": frozenset(),
    "refused": frozenset(),
}

BROKER_TOP_UP: Final[Table] = {
    "requested": frozenset({"opened", "declined"}),
    "opened": frozenset({"charged", "declined", "unknown"}),
    "unknown": frozenset({"charged", "declined"}),
    "charged": frozenset(),
    "declined": frozenset(),
}

CUSTOMER_TOP_UP: Final[Table] = {
    "open": frozenset({"charged", "refused"}),
    "charged": frozenset(),
    "refused": frozenset(),
}

ACCOUNT: Final[Table] = {
    "enabled": frozenset({"disabled", "closed"}),
    "disabled": frozenset({"enabled", "closed"}),
    "closed": frozenset(),
}


class UnlistedStepError(Exception):
    """Our own code asked for a step that the table does not list."""


def step(table: Table, old: str, new: str) -> str:
    """Give `new` where the table lists the step from `old`. Raises `UnlistedStepError`."""
    if new not in table[old]:
        raise UnlistedStepError(f"no step from {old} to {new}")
    return new


def sources(table: Table, new: str) -> tuple[str, ...]:
    """List every state from which `new` can be reached: what an `UPDATE` puts behind `WHERE state IN`."""
    return tuple(old for old, targets in table.items() if new in targets)
