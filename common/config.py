"""Every limit and default of Veilmart, in one place.

A node reads `limits.toml` from its home when that file exists; what it leaves out keeps the default
that stands here. Sizes are bytes, times milliseconds, amounts minor units, unless a name says otherwise.

    # limits.toml
    order_deadline_ms = 7_200_000
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

from common.errors import UsageError

KIB: Final = 1024
SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

FRAME_SIZES: Final = tuple(kib * KIB for kib in (1, 2, 4, 8, 16, 32, 64, 72, 192))
"""A frame on the bus has one of these lengths, so that its length says little about its content."""

MAXIMUM_FRAME: Final = FRAME_SIZES[-1]
MAXIMUM_CARD: Final = 64 * KIB
MAXIMUM_MESSAGES_PER_FRAME: Final = 64
MAXIMUM_COINS: Final = 64
MAXIMUM_LINES: Final = 20
MAXIMUM_SEALED: Final = 64 * KIB
CELL_CONTENT: Final = 64 * KIB
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


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator may set; the protocol's own sizes are the constants above."""

    freshness_ms: int = 5 * MINUTE_MS
    session_idle_ms: int = 15 * MINUTE_MS
    shop_session_ms: int = 12 * HOUR_MS
    account_session_ms: int = 1 * HOUR_MS
    merchant_session_ms: int = 24 * HOUR_MS
    session_byte_budget: int = 4 * KIB * KIB * KIB
    cell_window: int = 16
    """Cells under way for one session: two windows of 8. With two of 4, each waited for the other's hops."""
    cells_under_way: int = 64
    order_deadline_ms: int = 24 * HOUR_MS
    order_deadline_minimum_ms: int = 10 * SECOND_MS
    reforward_first_ms: int = 30 * SECOND_MS
    reforward_longest_ms: int = 10 * MINUTE_MS
    answer_kept_ms: int = 30 * DAY_MS
    settlement_ms: int = 7 * DAY_MS
    """How long captured money waits for its customer's word before it is the merchant's."""
    dispute_ms: int = 14 * DAY_MS
    """By when the operator decides a dispute; later ones are shown as overdue, and stay frozen."""
    commission_basis_points: int = 0
    """The operator's share of what settles, in hundredths of a percent, rounded half up."""
    tickets_per_day: int = 100
    top_denomination: int = 2**14
    retired_exchange_ms: int = 0
    """How long after their grace the broker still swaps coins of a retired key; they pay no order."""
    privacy_group: int = 4
    privacy_overhead: int = 4
    sign_up: Literal["open", "invite", "closed"] = "open"
    """Who may open an account: everybody, whoever has an invite code, nobody but the operator."""
    invite_life_ms: int = 14 * DAY_MS
    login_free_tries: int = 5
    login_longest_delay_ms: int = 1 * HOUR_MS
    login_free_tries_in_total: int = 200
    """Failed logins over all names, in one hour, before every further login waits."""
    password_queue: int = 64
    """Password checks that may wait, of known devices and of strangers each; more are refused as busy."""
    sign_up_queue: int = 16
    """Sign-ups that may wait among the strangers."""
    devices_per_account: int = 16
    top_up_minimum: int = 100
    top_up_maximum: int = 100_000
    """Of one charge, in minor units of whatever the market's currency is."""
    top_ups_per_day: int = 20
    """Of one account, in any 24 hours, tried ones included: stolen cards are tried out in series."""
    top_up_queue: int = 32
    """Charges under way at the gateway; a further one is refused as busy."""
    top_up_ask_first_ms: int = 5 * SECOND_MS
    top_up_ask_longest_ms: int = 10 * MINUTE_MS
    """How soon the gateway is asked about a charge that is not known, doubling up to the longest."""
    gateway_timeout_ms: int = 10 * SECOND_MS
    batch_messages: int = 512
    batch_bytes: int = 2 * KIB * KIB
    batch_cells: int = 8
    totals_minimum_orders: int = 20
    totals_period_ms: int = 1 * HOUR_MS
    quarantine_before_stop: int = 16
    """Messages on which our own code failed before the node stops rather than going on."""
    expiry_warning_ms: int = 30 * DAY_MS


def load_limits(home: Path) -> Limits:
    """Read `limits.toml` of a node's home, or give the defaults. Raises `UsageError` for a wrong entry."""
    path = home / "limits.toml"
    if not path.exists():
        return Limits()
    try:
        limits = msgspec.toml.decode(path.read_bytes(), type=Limits)
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path} is not valid: {error}", "Correct the entry or remove the line.") from error
    # Keys are erased a day after their slot: whatever lasted longer could not be opened at its end.
    for name in ("order_deadline_ms", "shop_session_ms", "account_session_ms", "merchant_session_ms"):
        if not 0 < getattr(limits, name) <= DAY_MS:
            raise UsageError(f"{path}: {name} is more than a day, or nothing")
    # Customers ask for half of the default at once, whatever the operator writes.
    if limits.cell_window < Limits().cell_window // 2 or limits.cells_under_way < 2 * limits.cell_window:
        raise UsageError(f"{path}: cell_window or cells_under_way is too small for a download")
    shares = (limits.password_queue, limits.sign_up_queue, limits.devices_per_account)
    if min(limits.batch_messages, limits.batch_cells, limits.freshness_ms, *shares) < 1:
        raise UsageError(f"{path}: a limit of nothing lets nothing through")
    if not 0 <= limits.commission_basis_points <= WHOLE_IN_BASIS_POINTS or limits.settlement_ms < 0:
        raise UsageError(f"{path}: commission_basis_points or settlement_ms is out of its range")
    return limits
