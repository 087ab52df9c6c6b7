"""What the API returns: frozen, plain values. Amounts are minor units, times milliseconds since 1970.

Ids are hex text, so that every view can be printed or turned into JSON as it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from common.errors import UsageError, VeilmartError

Stock: TypeAlias = Literal["in", "low", "out"]
OrderState: TypeAlias = Literal[
    "draft",
    "refused",
    "placed",
    "accepted",
    "downloading",
    "disputed",
    "complete",
    "refundable",
    "refunded",
]

Hop: TypeAlias = Literal["customer", "broker", "merchant", "operator", "gateway"]
"""Whom something waits for; `gateway` charges cards, for the broker."""
EventKind: TypeAlias = OrderState | Literal["waiting"]


@dataclass(frozen=True)
class MarketView:
    """A market as its file states it. `minimum_age_seconds` is how long coins rest before they shop."""

    market_id: str
    currency: str
    host: str
    port: int
    minimum_age_seconds: int
    broker_fingerprint: str


@dataclass(frozen=True)
class BalanceView:
    """The account: its money, and how many tickets it may still draw today."""

    amount: int
    currency: str
    tickets_left: int


@dataclass(frozen=True)
class TopUpView:
    """A card's charge. `charge` is the gateway's id, `balance` the account's after it where it is known.

    `resumed` tells that nothing was charged now: an earlier call was interrupted, and this is its end. An
    open one `waits_for` the broker or, where that says so, for the gateway; `waits_until` is always None: it
    is asked about until it is known.
    """

    operation: str
    state: Literal["open", "charged", "refused"]
    amount: int
    currency: str
    brand: str
    last_four: str
    charge: str
    created: int
    balance: int | None = None
    resumed: bool = False
    waits_for: Hop | None = None
    waits_until: int | None = None


@dataclass(frozen=True)
class WithdrawalView:
    """What came into the wallet, the account's balance after it, and when the coins become usable."""

    amount: int
    coins: int
    tickets: int
    balance: int
    currency: str
    usable_from: int


@dataclass(frozen=True)
class TotpSecretView:
    """A secret for an authenticator app, in base32, and as the address that apps read as a QR code."""

    secret: str = field(repr=False)
    address: str = field(repr=False)


@dataclass(frozen=True)
class PendingView:
    """An operation that is still to be answered: since when, by whom, and until when that may take.

    `waits_until` is None where nothing ends the wait but the answer: it is asked for again without a limit.
    """

    kind: Literal["withdraw", "swap", "refund", "top_up"]
    since: int
    waits_for: Hop
    waits_until: int | None


@dataclass(frozen=True)
class CoinStockView:
    """Coins of one value: usable now, too young, of a month that is over.

    `crowd` is an upper bound: so many coins like any one of these were out, drawn and not spent, at
    `WalletView.crowd_at`. None where the broker has published no count that has them in it.
    """

    value: int
    usable: int
    young: int
    expired: int
    crowd: int | None


Work: TypeAlias = Literal["exchange", "renew", "spread", "draw"]


@dataclass(frozen=True)
class DueView:
    """What the wallet should do by itself: not before `at`, or, where that is 0, at a time still to be drawn.

    `exchange`: ask whether coins of a month that is over are still swapped; `renew`: swap coins in their
    last week; `spread`: fill a gap in the denominations; `draw`: take coins or tickets from the account.
    """

    work: Work
    at: int


@dataclass(frozen=True)
class TendedView:
    """What was done. `open` goes no further for now, because of `error`; `lost` are coins of no worth."""

    work: Work
    outcome: Literal["done", "open", "lost"]
    error: VeilmartError | None


@dataclass(frozen=True)
class TendView:
    """What tending did, and what is due next. A draw needs an account session (`logged_in`)."""

    done: tuple[TendedView, ...]
    due: tuple[DueView, ...]
    logged_in: bool


@dataclass(frozen=True)
class EndedView:
    """Coins of a month that ended at `at`. `lost` where the broker swaps them no more; else it may."""

    month: str
    at: int
    worth: int
    lost: bool


@dataclass(frozen=True)
class WalletView:
    """The wallet. `restoring` is whether it was made from words and did not get everything back yet.

    `young_until` is when the last young token becomes usable, 0 where none is young.

    `crowd_at` is when the coins of all customers were last counted in public, 0 where they never were.
    Every amount up to `exact_up_to` can be paid without a swap. Coins worth `ending` count no longer from
    `ending_at` on (0 where none is in its last week).
    """

    currency: str
    usable: int
    young: int
    reserved: int
    coins: tuple[CoinStockView, ...]
    tickets: int
    young_tickets: int
    young_until: int
    crowd_at: int
    open_operations: int
    pending: tuple[PendingView, ...]
    restoring: bool
    logged_in: bool
    exact_up_to: int
    ending: int
    ending_at: int
    ended: tuple[EndedView, ...]
    due: tuple[DueView, ...]


@dataclass(frozen=True)
class VisitView:
    """Open shop visits: how many, and when the last of them will have been idle for too long."""

    count: int
    until: int


@dataclass(frozen=True)
class MerchantView:
    """A merchant as its card states it. `online` is None where it has published no presence."""

    id: str
    name: str
    description: str
    online: bool | None
    fingerprint: str
    catalog_version: int


@dataclass(frozen=True)
class ProductSummaryView:
    """A product as a list shows it."""

    merchant: str
    sku: str
    title: str
    category: str
    tags: tuple[str, ...]
    variant: str
    price: int
    currency: str
    stock: Stock
    image: bool


@dataclass(frozen=True)
class SearchView:
    """What a search found, and which merchants could not be asked, with the reason."""

    products: tuple[ProductSummaryView, ...]
    categories: tuple[str, ...]
    total: int
    failures: dict[str, VeilmartError]


@dataclass(frozen=True)
class ProductView:
    """A product, its record signed by the merchant. `record` is the SHA-256 of that record.

    With `keys` each copy comes with a licence key of its own; with `size` 0 there is nothing else.
    """

    merchant: str
    sku: str
    version: int
    title: str
    description: str
    category: str
    tags: tuple[str, ...]
    group: str
    variant: str
    price: int
    currency: str
    tax_rate: int
    stock: Stock
    file_name: str
    size: int
    digest: str
    cells: int
    image: bool
    image_alt: str
    record: str
    keys: bool


@dataclass(frozen=True)
class ImageView:
    """A product's image, and the text that stands in for it."""

    media_type: str
    data: bytes
    alt: str


@dataclass(frozen=True)
class TaxView:
    """The tax at one rate, in basis points: `base` and `amount` together are what is paid."""

    rate: int
    base: int
    amount: int


@dataclass(frozen=True)
class CartLineView:
    """A line of the cart, at the price that was last shown; `tax`, at `tax_rate`, is in `amount`."""

    merchant: str
    sku: str
    title: str
    quantity: int
    unit_price: int
    amount: int
    tax_rate: int
    tax: int


@dataclass(frozen=True)
class CartView:
    """The cart: lines, total per merchant, total, and the taxes in it."""

    lines: tuple[CartLineView, ...]
    totals: dict[str, int]
    taxes: tuple[TaxView, ...]
    total: int
    currency: str


@dataclass(frozen=True)
class QuoteLineView:
    """A line at its price now. `previous_price` is the one shown before, where it differs.

    `amount` is what is left after `discount`; `tax`, at `tax_rate` basis points, is in it.
    """

    merchant: str
    sku: str
    title: str
    quantity: int
    unit_price: int
    discount: int
    amount: int
    tax_rate: int
    tax: int
    stock: Stock
    previous_price: int | None


@dataclass(frozen=True)
class QuoteView:
    """What buying would cost now: `subtotal` less `discount` is `total`, which the taxes are in.

    `totals` and `codes` are by merchant. After `valid_until` it has to be asked for again.
    """

    lines: tuple[QuoteLineView, ...]
    totals: dict[str, int]
    codes: dict[str, str]
    subtotal: int
    discount: int
    taxes: tuple[TaxView, ...]
    total: int
    currency: str
    valid_until: int

    @property
    def changed(self) -> bool:
        """Whether a price is another than the one shown before."""
        return any(line.previous_price is not None for line in self.lines)


@dataclass(frozen=True)
class OrderLineView:
    """A line of an order; `tax`, at `tax_rate` basis points, is in `amount`."""

    sku: str
    title: str
    quantity: int
    unit_price: int
    discount: int
    amount: int
    tax_rate: int
    tax: int


@dataclass(frozen=True)
class LicenceKeysView:
    """Licence keys that an order delivered, one for each copy."""

    sku: str
    keys: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class OrderView:
    """An order. `audit` is the pseudonym of its public events; `failure` says why it was refunded.

    `subtotal` less `discount`, which `code` gave, is `total`; the taxes are in it.
    `refunded` is how much of it was given back, `claimed` how much of that is in the wallet. `waits_for` is
    whose turn it is, None at an end. `waits_until` is when that wait ends by itself, None where it does not:
    money that was given back stays at the broker until it is claimed, however long that takes. Of a disputed
    order it is by when the operator is to decide. That ends nothing: nobody decides by waiting, and
    afterwards the dispute is `overdue`, its money frozen as before.

    `finding` is what the evidence of a dispute proves, `decision` why it ended. `keys` are there once they
    are downloaded.

    An order that a market gives knows its way back there, for `events` alone: `follow` is in no field.
    """

    order_id: str
    merchant: str
    state: OrderState
    lines: tuple[OrderLineView, ...]
    code: str
    subtotal: int
    discount: int
    taxes: tuple[TaxView, ...]
    total: int
    currency: str
    created: int
    deadline: int
    idempotency_key: str
    audit: str | None
    failure: str | None
    refunded: int
    claimed: int
    decision: str
    waits_for: Hop | None
    waits_until: int | None
    cells_done: int
    cells: int | None
    files: tuple[Path, ...]
    keys: tuple[LicenceKeysView, ...] = ()
    finding: str = ""
    follow: InitVar[Follow | None] = None

    def __post_init__(self, follow: Follow | None) -> None:
        object.__setattr__(self, "_follow", follow)

    def __getstate__(self) -> dict[str, Any]:
        # Copied or sent to another process it is what was read, and nothing more.
        return {**self.__dict__, "_follow": None}

    def overdue(self, now: int) -> bool:
        """Whether this is a dispute that should have been decided before `now`."""
        return self.state == "disputed" and self.waits_until is not None and self.waits_until <= now

    def events(self, folder: Path | None = None, *, timeout_s: float | None = None) -> OrderEvents:
        """Follow this order until it needs nothing more: `for event in`, `async for` with an `AsyncMarket`.

        Following carries the order on, as `Market.resume` does: it asks the broker, downloads what was
        accepted into `folder` (None: where that began, or else the profile's own `downloads`), and claims
        what was given back. The first event is where the order stands.

        `timeout_s` is how long the next event may take, the present question's answer aside; None is as long
        as the order's own deadline says.
        Raises `DeadlineError`, whose `hop` is whom it waited for, and whatever asking again would not
        change: `OutOfTicketsError`, `UntrustedError`. Given up or failed, the next call goes on.
        """
        follow: Follow | None = self.__dict__["_follow"]
        if follow is None:
            raise UsageError("This order was not given by an open market.", "`market.order(id)` gives it.")
        return follow(self.order_id, folder, timeout_s)


@dataclass(frozen=True)
class OrderEvent:
    """What happened with an order, `at` a time on this machine.

    `kind` is the order's state, or `waiting` where somebody does not answer; `error` says what they lack,
    and why an order was refused or refunded. While it is downloaded each part is an event with `progress`.
    From here on `hop` (`customer`, `bus`, `broker`, `merchant`, `operator`) has to do something, until
    `deadline`; None where nobody has, or however long it takes.
    """

    kind: EventKind
    at: int
    order: OrderView
    hop: str | None
    deadline: int | None
    progress: Progress | None = None
    error: VeilmartError | None = None


class OrderEvents(Iterable[OrderEvent], AsyncIterable[OrderEvent], Protocol):
    """The events of an order, as they come: for a `for`, or for an `async for`."""


class Follow(Protocol):
    """Follows an order of a market that is open: its id, a folder, and how long an event may take."""

    def __call__(self, order_id: str, folder: Path | None, timeout_s: float | None) -> OrderEvents:
        """Give its events."""


@dataclass(frozen=True)
class WrongFileView:
    """What came in place of a product's content, or of its licence keys (`keys`), at `at`.

    `sha256` is what a dispute claims: of keys that over their salt and text. `path` is where it lies in the
    profile, None where there was no room for it.
    """

    sku: str
    keys: bool
    sha256: str
    path: Path | None
    at: int


@dataclass(frozen=True)
class DisputeView:
    """What was said when an order was disputed; `revealed` tells whether its receipt was shown."""

    kind: Literal["not_delivered", "wrong_content"]
    statement: str
    revealed: bool
    opened: int


@dataclass(frozen=True)
class OrderResult:
    """How one merchant's part of a purchase went. Both may be set: an order that is open, and why."""

    merchant: str
    order: OrderView | None
    error: VeilmartError | None


@dataclass(frozen=True)
class PurchaseView:
    """A purchase: one independent order per merchant, all attempted."""

    idempotency_key: str
    results: tuple[OrderResult, ...]

    @property
    def orders(self) -> tuple[OrderView, ...]:
        """The orders that there are."""
        return tuple(result.order for result in self.results if result.order is not None)

    @property
    def errors(self) -> tuple[VeilmartError, ...]:
        """What went wrong."""
        return tuple(result.error for result in self.results if result.error is not None)


@dataclass(frozen=True)
class DeliveredFile:
    """A file whose content has the digest that the merchant signed."""

    path: Path
    sku: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Progress:
    """How far a download is. `size` and `bytes_done` are those of the files, without padding."""

    cells_done: int
    cells: int
    bytes_done: int
    size: int


@dataclass(frozen=True)
class ReceiptLineView:
    """A line of a receipt; `tax` is in `amount`."""

    sku: str
    title: str
    quantity: int
    unit_price: int
    discount: int
    amount: int
    tax: TaxView
    file_name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class ReceiptView:
    """A verified receipt, whose figures add up. `fingerprint` is of the identity key that signed it."""

    order_id: str
    market_id: str
    merchant: str
    lines: tuple[ReceiptLineView, ...]
    subtotal: int
    discount: int
    taxes: tuple[TaxView, ...]
    total: int
    currency: str
    at: int
    fingerprint: str


@dataclass(frozen=True)
class RestoredSourceView:
    """What came back from one place: unspent coins and tickets, and how many tokens were spent before."""

    source: Literal["account", "swaps", "refunds"]
    coins: int
    amount: int
    tickets: int
    spent: int


@dataclass(frozen=True)
class RestoredOrderView:
    """An order that was found: where it stands, and what was claimed of it now."""

    order_id: str
    state: str
    amount: int
    claimed: int
    deadline: int


@dataclass(frozen=True)
class RestoreView:
    """What a restored wallet got back so far; `error` is why it went no further.

    `missing_marks` is how many spent coins the broker counts and the bus did not show, `unmatched` how many
    signatures were another wallet's.
    """

    sources: tuple[RestoredSourceView, ...]
    orders: tuple[RestoredOrderView, ...]
    currency: str
    unmatched: int
    missing_marks: int
    complete: bool
    error: VeilmartError | None


@dataclass(frozen=True)
class ResumedView:
    """One thing that was taken up again. `outcome` is its state now, `error` why it goes no further.

    `waiting` is what takes a shop session, while the account was used less than the minimum age ago.

    A `renewal`, the swap of coins that would be void within a week, has no id.
    """

    kind: Literal["top-up", "withdrawal", "swap", "renewal", "order"]
    id: str
    outcome: str
    error: VeilmartError | None
