"""Every limit and default of Veilmart, in one place.

A node reads `limits.toml` from its home when that file exists; what it leaves out keeps the default
that stands here. Sizes are bytes, times milliseconds, amounts minor units, unless a name says otherwise.

    # limits.toml
    order_deadline_ms = 7_200_000
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from common.errors import UsageError
from common.settings import read_settings

KIB: Final = 1024
SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

FRAME_SIZES: Final = tuple(kib * KIB for kib in (1, 2, 4, 8, 16, 32, 64, 65, 129, 258))
"""A frame on the bus has one of these lengths, so that its length says little about its content. The last
three are those of one, two, and three or four cells."""

MAXIMUM_FRAME: Final = FRAME_SIZES[-1]
MAXIMUM_CARD: Final = 64 * KIB
MAXIMUM_MESSAGES_PER_FRAME: Final = 64
MAXIMUM_COINS: Final = 64
MAXIMUM_LINES: Final = 20
MAXIMUM_SEALED: Final = 64 * KIB
CELL_CONTENT: Final = 64 * KIB
CELLS_PER_FRAME: Final = 4
SMALLEST_CELL_WINDOW: Final = 8
HELLO_PLAINTEXT: Final = 6 * KIB
REQUEST_STEP: Final = 1 * KIB
PAGE_ANSWER: Final = 16 * KIB
PRODUCT_ANSWER: Final = 8 * KIB
IMAGE_ANSWER: Final = 48 * KIB
ORDER_ANSWER_STEP: Final = 4 * KIB
SPENT_MARK: Final = 16
SPENT_PER_CHUNK: Final = 512
SPENT_CHUNK_LIFE_MS: Final = 70 * DAY_MS
ISSUED_PER_PAGE: Final = 4
CLAIMS_PER_PAGE: Final = 4
MAXIMUM_AMOUNT: Final = 10**12
MAXIMUM_QUANTITY: Final = 1_000
STATEMENT_LINES: Final = 64
WHOLE_IN_BASIS_POINTS: Final = 10_000


NotNegative: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
AtLeastOne: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
UpToADay: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=DAY_MS)]
"""Keys are erased a day after their slot: whatever lasted longer could not be opened at its end."""
BasisPoints: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=WHOLE_IN_BASIS_POINTS)]
Denomination: TypeAlias = Annotated[int, msgspec.Meta(ge=512, le=2**30)]
"""At least the largest coin of a withdrawal (`coins.BUNDLE`): without its key nothing could be drawn."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator may set; the protocol's own sizes are the constants above."""

    freshness_ms: AtLeastOne = 5 * MINUTE_MS
    session_idle_ms: AtLeastOne = 15 * MINUTE_MS
    shop_session_ms: UpToADay = 12 * HOUR_MS
    account_session_ms: UpToADay = 1 * HOUR_MS
    merchant_session_ms: UpToADay = 24 * HOUR_MS
    session_byte_budget: AtLeastOne = 4 * KIB * KIB * KIB
    cell_window: AtLeastOne = 64
    """Cells under way for one session: 4 MiB. With 16, each hop waited for the others'."""
    cells_under_way: AtLeastOne = 256
    order_deadline_ms: UpToADay = 24 * HOUR_MS
    order_deadline_minimum_ms: NotNegative = 10 * SECOND_MS
    reforward_first_ms: AtLeastOne = 30 * SECOND_MS
    reforward_longest_ms: AtLeastOne = 10 * MINUTE_MS
    answer_kept_ms: NotNegative = 30 * DAY_MS
    settlement_ms: NotNegative = 7 * DAY_MS
    """How long captured money waits for its customer's word before it is the merchant's."""
    dispute_ms: NotNegative = 14 * DAY_MS
    """By when the operator decides a dispute; later ones are shown as overdue, and stay frozen."""
    commission_basis_points: BasisPoints = 0
    """The operator's share of what settles, in hundredths of a percent, rounded half up."""
    tickets_per_day: NotNegative = 100
    top_denomination: Denomination = 2**14
    retired_exchange_ms: NotNegative = 0
    """How long after their grace the broker still swaps coins of a retired key; they pay no order."""
    privacy_group: AtLeastOne = 4
    privacy_overhead: AtLeastOne = 4
    sign_up: Literal["open", "invite", "closed"] = "open"
    """Who may open an account: everybody, whoever has an invite code, nobody but the operator."""
    invite_life_ms: NotNegative = 14 * DAY_MS
    login_free_tries: NotNegative = 5
    login_longest_delay_ms: NotNegative = 1 * HOUR_MS
    login_free_tries_in_total: NotNegative = 200
    """Failed logins over all names, in one hour, before every further login waits."""
    password_queue: AtLeastOne = 64
    """Password checks that may wait, of known devices and of strangers each; more are refused as busy."""
    sign_up_queue: AtLeastOne = 16
    """Sign-ups that may wait among the strangers."""
    devices_per_account: AtLeastOne = 16
    top_up_minimum: AtLeastOne = 100
    top_up_maximum: AtLeastOne = 100_000
    """Of one charge, in minor units of whatever the market's currency is."""
    top_ups_per_day: NotNegative = 20
    """Of one account, in any 24 hours, tried ones included: stolen cards are tried out in series."""
    top_up_queue: NotNegative = 32
    """Charges under way at the gateway; a further one is refused as busy."""
    top_up_ask_first_ms: NotNegative = 5 * SECOND_MS
    top_up_ask_longest_ms: NotNegative = 10 * MINUTE_MS
    """How soon the gateway is asked about a charge that is not known, doubling up to the longest."""
    gateway_timeout_ms: AtLeastOne = 10 * SECOND_MS
    batch_messages: AtLeastOne = 512
    batch_bytes: AtLeastOne = 2 * KIB * KIB
    batch_cells: AtLeastOne = 8
    totals_minimum_orders: NotNegative = 20
    totals_period_ms: AtLeastOne = 1 * HOUR_MS
    quarantine_before_stop: NotNegative = 16
    """Messages on which our own code failed before the node stops rather than going on."""
    expiry_warning_ms: NotNegative = 30 * DAY_MS


def load_limits(home: Path) -> Limits:
    """Read `limits.toml` of a node's home, or give the defaults. Raises `UsageError` for a wrong entry."""
    path = home / "limits.toml"
    if not path.exists():
        return Limits()
    limits = read_settings(path, Limits, "A line that is left out keeps the default.")
    for low, high in (
        ("order_deadline_minimum_ms", "order_deadline_ms"),
        ("reforward_first_ms", "reforward_longest_ms"),
        ("top_up_minimum", "top_up_maximum"),
        ("top_up_ask_first_ms", "top_up_ask_longest_ms"),
    ):
        if getattr(limits, low) > getattr(limits, high):
            raise _wrong(path, low, f"is above {high}")
    # Customers ask for so many at once, whatever the operator writes.
    if limits.cell_window < SMALLEST_CELL_WINDOW:
        raise _wrong(path, "cell_window", f"is below {SMALLEST_CELL_WINDOW}, too small for a download")
    if limits.cells_under_way < 2 * limits.cell_window:
        raise _wrong(path, "cells_under_way", "is below twice the cell_window, too small for a download")
    if limits.top_denomination & (limits.top_denomination - 1):
        raise _wrong(path, "top_denomination", "is no power of two")
    return limits


def _wrong(path: Path, name: str, what: str) -> UsageError:
    default = getattr(Limits(), name)
    return UsageError(
        f"{path}: {name} {what}", f"Correct the entry, or remove the line: the default is {default}."
    )
