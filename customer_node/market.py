"""The Python API of a customer: one profile, one market.

    with Market(profile) as market:
        market.cart.add("sports", "PLAN-10K")
        quote = market.quote()                        # prices now
        order, = market.buy(idempotency_key="tuesday")
        for event in order.events(Path("bought")):    # accepted, downloading …, complete
            print(event.kind, event.progress)

Amounts are minor units, times milliseconds since 1970, ids hex text. Every method raises a
`VeilmartError` with a stable `code` for whatever a person can do something about; whatever was under way
then goes on with the same call or with `resume`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from common import bus, clock, messages
from common.clock import Random
from common.errors import NotFoundError, RejectedError, UsageError
from common.market_file import MarketFile
from customer_node import apart, kept, order_views, orders, words, wrong_content
from customer_node.account import Account
from customer_node.account_changes import AccountChanges
from customer_node.browse import MAXIMUM_TICKETS, Browse
from customer_node.cart import Cart, Wanted, check_quantity
from customer_node.checkout import Checkout
from customer_node.connection import Connect, Uplink
from customer_node.context import Context
from customer_node.directory import Directory
from customer_node.disputes import Disputes, Kind
from customer_node.downloads import BATCH, Downloads
from customer_node.drafts import Drafts
from customer_node.following import Events, Following
from customer_node.funds import Funds
from customer_node.holdings import wallet_view
from customer_node.invoices.issue import Invoices
from customer_node.invoices.model import Buyer, Invoice
from customer_node.orders import Order
from customer_node.profile import MARKET_FILE, Profile
from customer_node.purchasing import Purchasing
from customer_node.quotes import Asked, Quotes, Terms, check_code
from customer_node.reading import Reading
from customer_node.receipts import Receipts
from customer_node.refunds import Refunds
from customer_node.rejections import CancelledError
from customer_node.restore import Restore
from customer_node.resume import Part, Resume
from customer_node.schema import account_sessions, visits
from customer_node.seed_file import Protection, Unlock
from customer_node.shop import Shop
from customer_node.standing import Standing
from customer_node.timing import Clock, steady_clock
from customer_node.topups import TopUps
from customer_node.upkeep import Upkeep
from customer_node.views import (
    BalanceView,
    DeliveredFile,
    Follow,
    ImageView,
    MarketView,
    MerchantView,
    OrderView,
    ProductView,
    Progress,
    PurchaseView,
    QuoteView,
    ReceiptView,
    RestoreView,
    ResumedView,
    SearchView,
    TendView,
    TopUpView,
    WalletView,
    WithdrawalView,
    WrongFileView,
)
from customer_node.wallet import Wallet
from customer_node.words import seed_of


class Market:
    """An open profile. One process at a time may have it (`BusyError`); close it, or use `with`."""

    def __init__(
        self,
        profile: Path,
        *,
        proxy: str | None = None,
        timeout_s: float = 30.0,
        connect: Connect = bus.Connection,
        allow_young: bool = False,
        unlock: Unlock | None = None,
        clock: Clock | None = None,
        random: Random = clock.random_bytes,
    ) -> None:
        """Open a profile that joined a market.

        `proxy` is `socks5://HOST:PORT`; each session then takes a circuit of its own. `timeout_s` is how
        long one answer may take. `allow_young` waits for no minimum age, neither of coins and tickets nor
        between account and shops, which makes it easier to tie a purchase to the withdrawal before it.
        `unlock` is the passphrase or key file of a wallet that has one. Raises `UsageError`, `BusyError`,
        `AuthenticationError`.
        """
        opened = Profile.open(profile, unlock, random)
        now = clock or steady_clock()
        context = Context(
            profile=opened,
            uplink=Uplink(opened, connect, proxy, timeout_s),
            directory=Directory(opened, now),
            wallet=Wallet(opened.seed, allow_young=allow_young),
            clock=now,
            random=random,
            timeout_ms=int(timeout_s * 1000),
            hurried=allow_young,
        )
        try:
            with opened.store.immediate() as tx:
                for table in (account_sessions, visits):
                    kept.sweep(tx, table, now())
            wrong_content.erase_ended(opened)
        except BaseException:
            opened.close()
            raise
        self._context = context
        self._account = Account(context)
        self._top_ups = TopUps(context, self._account)
        self.account = AccountChanges(context, self._account, self._top_ups)
        """The account itself: `change_password`, `new_secret`, `enable_totp`, `disable_totp`, `close`."""
        self._shop = Shop(context)
        self._browse = Browse(context, self._shop)
        refunds = Refunds(context)
        standing = Standing(context, refunds)
        self._downloads = Downloads(context, self._shop, standing)
        self._receipts = Receipts(context)
        self._invoices = Invoices(context, self._receipts)
        funds = Funds(context)
        checkout = self._checkout = Checkout(context, funds, refunds)
        drafts = self._drafts = Drafts(context, funds)
        self._purchasing = Purchasing(context, self._shop, drafts, checkout, self._downloads)
        self._disputes = Disputes(context, refunds)
        self.following = Following(
            context, self._shop, checkout, self._downloads, self._disputes, self._followed
        )
        """What an order's `events` come from, pauses included."""
        self._follow: Follow = self._events
        self._resume = Resume(
            context=context,
            account=self._account,
            shop=self._shop,
            funds=funds,
            checkout=checkout,
            downloads=self._downloads,
            standing=standing,
            top_ups=self._top_ups,
            refunds=refunds,
            disputes=self._disputes,
        )
        self._upkeep = Upkeep(context, self._account, self._shop, funds)
        self._restore = Restore(context, self._account, self._shop)
        self._quotes = Quotes(context, self._shop)
        self.cart = Cart(context, self._browse, self._quotes)
        """The cart: `add`, `set`, `remove`, `view`, `clear`."""
        self.reading = Reading(context)
        """What may be read from another thread while this market is busy."""

    @classmethod
    def join(cls, profile: Path, market_file_path: Path, unlock: Unlock | None = None) -> MarketView:
        """Make a profile for a market. Joining the same market again changes nothing but its addresses.

        A new wallet is sealed under `unlock`; without it whoever reads the folder has the money. Raises
        `UsageError` or `UntrustedError` for a bad file, `UntrustedError` where the profile belongs
        to another market, `BusyError`.
        """
        return _market_view(Profile.join(profile, market_file_path, clock.random_bytes, unlock))

    @classmethod
    def restore(
        cls, profile: Path, market_file_path: Path, words: str, unlock: Unlock | None = None
    ) -> MarketView:
        """Make a profile out of a wallet's 24 words; `recover` then brings its coins back.

        Raises as `join` does, and `UsageError` for wrong words or where there is a profile already.
        """
        if (profile / MARKET_FILE).exists():
            raise UsageError(f"{profile} has a wallet already.", "Use an empty folder.")
        seed = seed_of(words)
        return _market_view(Profile.join(profile, market_file_path, clock.random_bytes, unlock, seed))

    def recover(self, account: str | None = None, *, together: int = 1, refunds: bool = False) -> RestoreView:
        """Bring back every unspent coin of this seed: what `account`, which is logged in, drew, and the rest.

        Goes on where an earlier call ended; without `account` with what needs no account. With it, and
        without `refunds`, a call after the end of all begins anew: each swap and order that there was is
        looked for again, since another copy of the profile may have been in use. `together` is
        how many swaps or orders are looked for in one shop session: each session takes a ticket, and
        what stands in one session can be tied together. `refunds` asks again about orders that were
        paid: their merchants may have given money back since. Raises `UsageError`; what stops it is in
        the result.
        """
        return self._restore.run(account, together, refunds=refunds)

    @staticmethod
    def protection(profile: Path) -> Protection:
        """Tell what opens a profile's wallet: `passphrase`, `key_file` or `none`."""
        return Profile.protection(profile)

    @property
    def protected_by(self) -> Protection:
        """What opens this profile's wallet."""
        return Profile.protection(self._context.profile.home)

    def protect(self, unlock: Unlock | None) -> None:
        """Let the wallet open with another passphrase or key file from now on; None is with neither."""
        self._context.profile.protect(unlock)

    def words(self) -> list[str]:
        """Give the 24 words that the wallet can be restored from. Whoever has them has the money."""
        return words.words_of(self._context.profile.seed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and let other processes in. Sessions stay open for the next command."""
        self._context.uplink.close()
        self._context.profile.close()

    @property
    def market(self) -> MarketView:
        """The market that this profile joined."""
        return _market_view(self._context.profile.market)

    # --- account ---------------------------------------------------------------------------------------

    def sign_up(self, name: str, password: str, *, invite: str = "") -> None:
        """Open an account and log in. Raises `RejectedError` if the name is taken or the rules say no."""
        self._account.sign_up(name, password, invite)

    def log_in(self, name: str, password: str, *, code: str = "") -> None:
        """Log in, with the second factor's code where there is one. Raises `AuthenticationError`."""
        self._account.log_in(name, password, code)

    def log_out(self) -> None:
        """End the account session and erase its keys, here and at the broker."""
        self._account.log_out()

    def balance(self) -> BalanceView:
        """Ask for the account's balance. Raises `AuthenticationError` where nobody is logged in."""
        return self._account.balance()

    def top_up(
        self, amount: int, card: messages.PaymentCard, idempotency_key: str | None = None
    ) -> TopUpView:
        """Charge a card (`common.payment_cards.card` reads one) and credit the account with the amount.

        The card is checked here before anything is sent, and stored nowhere. The same key never charges
        twice. Raises `InvalidCardError`, `CardDeclinedError`, `RejectedError`, `GatewayUnreachableError`,
        `IdempotencyConflictError`, and `DeadlineError` while the gateway is silent: `resume` finds out.
        """
        return self._top_ups.top_up(amount, card, idempotency_key)

    def check_top_up(
        self, amount: int, card: messages.PaymentCard, idempotency_key: str | None = None
    ) -> None:
        """Demand what `top_up` demands before it sends anything. Raises as it does; asks nobody."""
        self._top_ups.check(amount, card, idempotency_key)

    def top_ups(self) -> tuple[TopUpView, ...]:
        """List the top-ups of this profile, oldest first; asks nobody."""
        return self._top_ups.views()

    def withdraw(self, bundles: int = 1, *, hurried: bool = False) -> WithdrawalView:
        """Draw bundles of coins and tickets from the account into the wallet.

        Not within the market's minimum age after a visit to a shop (`TooSoonError`), unless `hurried`.
        Raises `InsufficientFundsError`, `AuthenticationError`.
        """
        self._demand_apart_from_shops(hurried=hurried)
        return self._account.withdraw(bundles)

    def plan_withdrawal(self, bundles: int = 1, *, hurried: bool = False) -> WithdrawalView:
        """Say what `withdraw` would draw, and what the account would have left; draws nothing.

        Raises as `withdraw` does.
        """
        self._demand_apart_from_shops(hurried=hurried)
        return self._account.plan_withdrawal(bundles)

    def _demand_apart_from_shops(self, *, hurried: bool) -> None:
        context = self._context
        if not hurried:
            with context.profile.store.immediate() as tx:
                apart.demand_apart_from_shops(tx, context.age_ms, context.clock(), "withdraw")

    def wallet(self) -> WalletView:
        """Count what the wallet holds; asks nobody."""
        context, logged_in = self._context, self._account.logged_in
        currency = context.profile.market.currency
        with context.profile.store.immediate() as tx:
            due = self._upkeep.due(tx)
            return wallet_view(tx, context.wallet, context.clock(), currency, due, logged_in=logged_in)

    def tend(self, bundles: int = 1, log_in: Callable[[], None] | None = None) -> TendView:
        """Let the wallet look after itself: do what is due, and say what comes next.

        Times are drawn at random when something is first needed and stored; only then is it waited for.
        `bundles` is how many bundles' worth stays in hand. `log_in` is called where an account session is
        needed for a draw and none is open. Raises nothing of what stands in the results.
        """
        return self._upkeep.run(bundles, log_in)

    # --- looking around --------------------------------------------------------------------------------

    def merchants(self) -> tuple[MerchantView, ...]:
        """List the market's merchants. Takes no ticket."""
        return self._browse.merchants()

    def search(
        self,
        text: str = "",
        *,
        merchant: str | None = None,
        category: str = "",
        sort: messages.Sort = "title",
        limit: int = 50,
        max_tickets: int = MAXIMUM_TICKETS,
        offset: int = 0,
    ) -> SearchView:
        """Search one merchant's products, or those of all; `offset` leaves out so many of the first.

        Asking a merchant for the first time takes a ticket. Raises `TicketsNeededError` where that would
        take more than `max_tickets`, `OutOfTicketsError`, `NotFoundError`, `MerchantOfflineError`.
        """
        return self._browse.search(text, merchant, category, sort, limit, max_tickets, offset)

    def show(self, merchant: str, sku: str) -> ProductView:
        """Give a product, its record verified. Raises `NotFoundError`."""
        return self._browse.show(merchant, sku)

    def image(self, merchant: str, sku: str) -> ImageView:
        """Give a product's image, verified. Raises `NotFoundError` where there is none."""
        return self._browse.image(merchant, sku)

    def leave_shops(self) -> None:
        """End every visit here and now; the next question to a merchant opens a new one, with a ticket."""
        self._shop.leave()

    # --- buying ----------------------------------------------------------------------------------------

    def quote(self, codes: Mapping[str, str] | None = None) -> QuoteView:
        """Ask for the cart's prices and stock anew; what this shows is what `buy` then takes.

        `codes` gives a discount code per merchant. Raises `DiscountRefusedError`, `NotFoundError`.
        """
        return self.cart.quote(_checked(codes))

    def quote_now(self, merchant: str, sku: str, quantity: int = 1, code: str = "") -> QuoteView:
        """Ask what one product would cost past the cart. Raises as `quote` does."""
        check_quantity(quantity)
        title = self._browse.show(merchant, sku).title
        codes = _checked({merchant: code} if code else {})
        return self._quotes.ask({merchant: [Asked(sku, quantity, title, None)]}, codes)

    def check_purchase(self, quote: QuoteView) -> None:
        """Demand that what was quoted could be bought now, as far as this machine knows; asks nobody.

        Raises `OutOfStockError`, `InsufficientFundsError`, and `UsageError` where there is nothing to buy.
        How many are left is learned from the merchant's refusal alone.
        """
        self._drafts.demand(quote)

    def purchase(
        self,
        idempotency_key: str | None = None,
        *,
        deadline_ms: int | None = None,
        codes: Mapping[str, str] | None = None,
        totals: Mapping[str, int] | None = None,
    ) -> PurchaseView:
        """Buy the cart: one independent order per merchant, all attempted, each with its own result.

        The same key gives the same orders. `deadline_ms` is how long a merchant may take to answer, at
        most the market's own limit. `codes` gives discount codes and `totals` what was agreed to, both
        by merchant; without a total the discount is whatever the code gives. Raises `UsageError` for an
        empty cart, `IdempotencyConflictError`; what goes wrong with a merchant stands in its result.
        """
        wanted = self.cart.wanted()
        terms = _terms(_checked(codes), totals or {})
        bought = self._purchasing.purchase(wanted, idempotency_key, "cart", deadline_ms, terms)
        results = (
            each if each.order is None else replace(each, order=self._followed(each.order))
            for each in bought.results
        )
        return replace(bought, results=tuple(results))

    def buy(
        self,
        idempotency_key: str | None = None,
        *,
        deadline_ms: int | None = None,
        codes: Mapping[str, str] | None = None,
        totals: Mapping[str, int] | None = None,
    ) -> tuple[OrderView, ...]:
        """Buy the cart as `purchase` does, and raise the first thing that went wrong with any order.

        All merchants are attempted before anything is raised; `orders` shows how each order stands.
        """
        return _all_good(self.purchase(idempotency_key, deadline_ms=deadline_ms, codes=codes, totals=totals))

    def buy_now(
        self,
        merchant: str,
        sku: str,
        quantity: int = 1,
        idempotency_key: str | None = None,
        *,
        unit_price: int | None = None,
        deadline_ms: int | None = None,
        code: str = "",
        total: int | None = None,
    ) -> OrderView:
        """Buy one product past the cart, at `unit_price`, or at its present price where that is None.

        `code` is a discount code, `total` what was agreed to with it, None for whatever it comes to.
        """
        check_quantity(quantity)
        wanted = {merchant: [Wanted(sku, quantity, unit_price)]}
        codes = _checked({merchant: code} if code else {})
        terms = _terms(codes, {} if total is None else {merchant: total})
        bought = self._purchasing.purchase(wanted, idempotency_key, "direct", deadline_ms, terms)
        return self._followed(_all_good(bought)[0])

    def orders(self) -> tuple[OrderView, ...]:
        """List the orders of this profile, oldest first."""
        with self._context.profile.store.immediate() as tx:
            return tuple(self._followed(order) for order in order_views.views(tx))

    def order(self, order_id: str) -> OrderView:
        """Give an order by its id, or the beginning of it. Raises `NotFoundError`."""
        with self._context.profile.store.immediate() as tx:
            return self._followed(order_views.views(tx, order_id=orders.find(tx, order_id))[0])

    def last_order(self) -> OrderView:
        """Give the newest order. Raises `NotFoundError` where there is none."""
        placed = self.orders()
        if not placed:
            raise NotFoundError("This profile has no order yet.")
        return placed[-1]

    def ask(self, order_id: str) -> OrderView:
        """Ask the broker where an order stands; what was given back of it comes into the wallet.

        May take a ticket. Raises what a visit raises.
        """
        found = self._find(order_id)
        self._shop.within(
            self._downloads.place_of(self._load(found)),
            lambda session: self._checkout.ask(session, found),
        )
        return self.order(order_id)

    def check_cancel(self, order_id: str) -> None:
        """Demand that an order could be called off, as far as this machine knows. Raises `RejectedError`."""
        self._checkout.check_cancel(self._find(order_id))

    def cancel(self, order_id: str) -> OrderView:
        """Call an order off that its merchant has not answered; the coins come back. Again changes nothing.

        Raises `RejectedError` where the merchant was faster, or the order is past that; after silence
        `resume` goes on calling it off.
        """
        found = self._find(order_id)
        if not self._checkout.call_off(found):
            return self.order(order_id)
        place = self._downloads.place_of(self._load(found))
        try:
            self._shop.within(place, lambda session: self._checkout.settle(session, found))
        except CancelledError:
            return self.order(order_id)
        except NotFoundError:
            # The broker has never heard of it: its coins are free again.
            if self.order(order_id).state != "refused":
                raise
            return self.order(order_id)
        raise RejectedError(
            f"{self.order(order_id).merchant} had accepted the order already.",
            "`veilmart download` fetches it; what is not delivered can be disputed.",
        )

    def check_dispute(self, order_id: str, statement: str = "") -> None:
        """Demand that an order could be disputed, as far as this machine knows. Raises as `dispute` does."""
        self._disputes.disputable(self._find(order_id), statement)

    def dispute(self, order_id: str, kind: Kind, statement: str = "", *, reveal: bool) -> OrderView:
        """Freeze the money of a paid order that has not arrived, or is not what was signed.

        `reveal` sends receipt and signed records as evidence, and what has arrived as a claim: the market's
        operator then sees what was bought. Where the evidence proves the merchant wrong the money is back at
        once; else the operator decides. Raises `RejectedError` where it is too late; after silence `resume`
        goes on.
        """
        found = self._find(order_id)
        self._shop.within(
            self._downloads.place_of(self._load(found)),
            lambda session: self._disputes.open(session, found, kind, statement, reveal=reveal),
        )
        return self.order(order_id)

    # --- delivery --------------------------------------------------------------------------------------

    def download(
        self,
        order_id: str,
        folder: Path | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> tuple[DeliveredFile, ...]:
        """Download an order's files into a folder, going on where an earlier call ended.

        `progress` is called after each part. `folder` None goes on in the folder where it began. Raises
        `RejectedError` for an order that was not accepted, `UntrustedError` for content that the merchant
        did not sign, `MerchantOfflineError`, `DeadlineError`, `UsageError`.
        """
        for step in self.download_steps(order_id, folder):
            if progress is not None:
                progress(step)
        return self.files(order_id)

    def download_steps(
        self, order_id: str, folder: Path | None = None, *, batch: int = BATCH
    ) -> Generator[Progress, None, None]:
        """Download as `download` does, as an iterator; it may be given up and started again.

        A step is `batch` cells: few are seen sooner, and each is written down, which takes a while.
        """
        return self._downloads.steps(self._find(order_id), folder, batch)

    def files(self, order_id: str) -> tuple[DeliveredFile, ...]:
        """List an order's files."""
        return self._downloads.files(self._find(order_id))

    def wrong_files(self, order_id: str) -> tuple[WrongFileView, ...]:
        """List what came of an order with another digest than the one signed; kept until the order's end.

        It is something to show, and proves nothing: `dispute` sends the digests as this customer's claim.
        """
        found = self._find(order_id)
        with self._context.profile.store.immediate() as tx:
            return wrong_content.views(tx, self._context.profile, found)

    # --- receipts --------------------------------------------------------------------------------------

    def receipt(self, order_id: str) -> ReceiptView:
        """Verify and show an order's receipt. Raises `NotFoundError`, `UntrustedError`."""
        return self._receipts.view(self._find(order_id))

    def export_receipt(self, order_id: str, path: Path) -> ReceiptView:
        """Verify a receipt and write it to a file that anyone in this market can verify."""
        return self._receipts.export(self._find(order_id), path)

    def receipt_bundle(self, order_id: str) -> bytes:
        """Verify a receipt and give what `export_receipt` writes."""
        return self._receipts.bundle(self._find(order_id))[1]

    def verify_receipt(self, source: Path | str | bytes) -> ReceiptView:
        """Verify an exported receipt off line: a file, what it holds, or the text of an invoice's QR codes.

        Raises `UntrustedError`.
        """
        match source:
            case Path():
                return self._receipts.verify(source)
            case bytes():
                return self._receipts.verify_bytes(source)
            case str():
                return self._receipts.verify_text(source)

    def invoice(self, order_id: str, buyer: Buyer | None = None) -> Invoice:
        """Make an order's invoice of its verified receipt; `buyer` None takes the name and address kept here.

        `customer_node.invoices.pdf.render` and `.page.render` make a file of it. Nobody is asked or told.
        Raises `NotFoundError`, `UntrustedError`.
        """
        return self._invoices.of(self._find(order_id), buyer)

    @property
    def buyer(self) -> Buyer:
        """The name and address that invoices show; kept in this profile, sealed, and sent to nobody."""
        return self._invoices.buyer

    def keep_buyer(self, buyer: Buyer) -> None:
        """Keep name and address for later invoices; `Buyer()` erases them."""
        self._invoices.keep_buyer(buyer)

    # --- carrying on -----------------------------------------------------------------------------------

    def resume(self, folder: Path | None = None, *, part: Part = "all") -> list[ResumedView]:
        """Take everything that is open to its end, and say what became of it.

        Deliveries that have not begun go to `folder`, or else into the profile's own `downloads`. `part`
        is `account` for what needs the account session, `orders` for what needs shop sessions, without
        deliveries. Raises nothing of what stands in the results.
        """
        return self._resume.run(folder, part)

    def followed_by(self, follow: Follow) -> None:
        """Let `follow` give the events of this market's orders; `AsyncMarket` gives its own."""
        self._follow = follow

    def _followed(self, order: OrderView) -> OrderView:
        return replace(order, follow=self._follow)

    def _events(self, order_id: str, folder: Path | None, timeout_s: float | None) -> Events:
        return Events(partial(self.following.steps, bytes.fromhex(order_id), folder, timeout_s))

    def _load(self, order_id: bytes) -> Order:
        with self._context.profile.store.immediate() as tx:
            return orders.load(tx, order_id)

    def _find(self, order_id: str) -> bytes:
        with self._context.profile.store.immediate() as tx:
            return orders.find(tx, order_id)


def _checked(codes: Mapping[str, str] | None) -> dict[str, str]:
    return {merchant: check_code(code) for merchant, code in (codes or {}).items()}


def _terms(codes: Mapping[str, str], totals: Mapping[str, int]) -> dict[str, Terms]:
    return {merchant: Terms(codes.get(merchant, ""), totals.get(merchant)) for merchant in {*codes, *totals}}


def _all_good(bought: PurchaseView) -> tuple[OrderView, ...]:
    if bought.errors:
        raise bought.errors[0]
    return bought.orders


def _market_view(market: MarketFile) -> MarketView:
    return MarketView(
        market_id=market.market_id.hex(),
        currency=market.currency,
        host=market.public.host,
        port=market.public.port,
        minimum_age_seconds=market.minimum_age_seconds,
        broker_fingerprint=market.broker_fingerprint,
    )
