"""Visits: shop sessions, each opened with a ticket that says nothing about who drew it.

    ticket --> Hello --> Welcome --> visit --> sealed questions to one merchant, orders, cells

Rule 1. One session per visit to a merchant, and one per order taken up again after its visit is over.
Its keys stay in the profile and serve later commands until it has been idle for too long; what happens
inside one visit can be linked to itself, and to nothing else.

Rule 2. A ticket is reserved before it is shown and spent once a session was opened with it. One that was
shown and never answered is shown again first; if it opened a session after all, it is given up.

Rule 3. A visit that is over (idle, byte budget, log-out) is replaced by a new one and the work goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import sqlalchemy as sa

from common import codec, config, messages, sealing
from common.errors import (
    BrokerUnreachableError,
    DeadlineError,
    MalformedError,
    MerchantOfflineError,
    NotFoundError,
    OutOfTicketsError,
    UntrustedError,
    UsageError,
    VeilmartError,
    WireError,
)
from customer_node import apart, key_slots
from customer_node import kept as keeping
from customer_node.connection import Link
from customer_node.context import Context
from customer_node.directory import Merchant
from customer_node.hello import HelloRefusedError, Opening
from customer_node.kept import KeptSession
from customer_node.refusals import SessionOverError
from customer_node.schema import visits
from customer_node.sessions import Session
from customer_node.timing import Countdown

Result = TypeVar("Result")
Answer = TypeVar("Answer", bound=messages.Message)
ShopSession = Session[messages.ToShop]

ATTEMPTS: Final = 3
MOST_GIVEN_UP: Final = 4
"""Tickets that one opening gives up at most: a broker that refuses them all would see whose they are."""

PROBE_MS: Final = 2 * config.SECOND_MS
_USED_UP: Final = frozenset({"double_spend", "bad_token", "unknown_key"})


def merchant_place(merchant: str) -> str:
    """Name the place of a visit to a merchant."""
    return f"merchant/{merchant}"


def order_place(order_id: bytes) -> str:
    """Name the place of a session for an order taken up again."""
    return f"order/{order_id.hex()}"


class Visit:
    """An open session, used for one merchant."""

    def __init__(self, context: Context, place: str, session: ShopSession, merchant: Merchant) -> None:
        self.context = context
        self.place = place
        self.session = session
        self.merchant = merchant

    def binding(self, purpose: sealing.Purpose, outer: bytes = b"") -> sealing.Binding:
        """Give what a sealed request to this merchant is bound to."""
        return sealing.Binding(self.context.profile.market_id, self.merchant.fingerprint, purpose, outer)

    def prekey(self, purpose: key_slots.Purpose, keys: Sequence[messages.SlotKey]) -> sealing.XWingPublicKey:
        """Give the prekey for this time. Raises `MerchantOfflineError` where the card's are all over."""
        key = key_slots.key_for(purpose, keys, self.session.now)
        if key is None:
            raise MerchantOfflineError(
                f"{self.merchant.id} shows no key for this time.", "It may be away; try again later."
            )
        return key

    def seal_browse(
        self, body: messages.SealedBody, purpose: sealing.Purpose, outer: bytes = b""
    ) -> tuple[bytes, sealing.AnswerKey]:
        """Seal a request to the browse prekey of the present hour.

        Raises `UsageError`, `UntrustedError`, `MerchantOfflineError` where the card shows no such key.
        """
        # Cards follow the clock while a connection is open: the latest one counts.
        self.merchant = self.context.directory.merchant(self.session.link, self.merchant.id)
        try:
            codec.SEALED_REQUEST.unpack(
                codec.pack(messages.SealedRequest(answer_secret=bytes(32), body=body))
            )
        except MalformedError:
            raise UsageError("A name, a SKU or a search text is too long or malformed.") from None
        prekey = self.prekey("browse", self.merchant.card.browse_prekeys)
        binding = self.binding(purpose, outer)
        return sealing.seal_request(prekey, binding, body, self.context.random(32), config.REQUEST_STEP)

    def ask(self, body: messages.SealedBody, kind: type[Answer]) -> Answer:
        """Ask the merchant and give its answer, of this kind.

        Raises `NotFoundError`, `UsageError`, `MerchantOfflineError`, `DeadlineError`, `UntrustedError`.
        """
        answer = self.answer(body)
        if not isinstance(answer, kind):
            raise UntrustedError(f"{self.merchant.id} answered something else than what was asked.")
        return answer

    def answer(self, body: messages.SealedBody) -> messages.SealedAnswer:
        """Ask the merchant and give whatever it answers; raises as `ask` does."""
        context = self.context
        if self.session.link.merchant_online(self.merchant.id) is False:
            raise merchant_away(self.merchant.id)
        sealed, key = self.seal_browse(body, "browse")
        question = messages.AskMerchant(request=context.random(16), merchant=self.merchant.id, sealed=sealed)
        try:
            reply = self.session.ask(question, messages.MerchantAnswer, context.timeout_ms)
        except DeadlineError:
            raise self.silence() from None
        try:
            answer = key.unseal(reply.answer)
        except WireError as error:
            raise UntrustedError("The merchant's answer does not open.") from error
        if isinstance(answer, messages.RequestRefused) and answer.code == "not_found":
            raise NotFoundError(
                f"{self.merchant.id} does not sell that.", "`veilmart search` lists products."
            )
        return answer

    def silence(self) -> VeilmartError:
        """Give the error for an answer that did not come in time, by the hop that is silent."""
        if not self.session.broker_answers(min(PROBE_MS, self.context.timeout_ms)):
            return self.session.silence()
        if self.session.link.merchant_online(self.merchant.id) is False:
            return merchant_away(self.merchant.id)
        return DeadlineError(
            f"{self.merchant.id} did not answer in time.",
            "Try again, or allow more time (`--timeout`).",
            hop="merchant",
        )


class Shop:
    """Opens visits."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def at(self, merchant: str, action: Callable[[Visit], Result], place: str | None = None) -> Result:
        """Do something in a visit to a merchant, in a new one where the old is over.

        `action` may run more than once and goes on from what it has stored. Raises what `action` raises,
        and `NotFoundError`, `OutOfTicketsError`, `UntrustedError`, `UnreachableError`.
        """
        chosen = place or merchant_place(merchant)
        if self._find(chosen) is None:
            # Who the merchant is comes first: a wrong name costs no ticket.
            self._context.directory.merchant(self.public_link(), merchant)

        def visit(session: ShopSession) -> Result:
            found = self._context.directory.merchant(session.link, merchant)
            return action(Visit(self._context, chosen, session, found))

        return self.within(chosen, visit)

    def within(self, place: str, action: Callable[[ShopSession], Result]) -> Result:
        """Do something in the session of a place; else as `at`. No merchant has to be there."""
        for _ in range(ATTEMPTS):
            try:
                return action(self._session(place))
            except SessionOverError:
                self._forget(place)
        raise BrokerUnreachableError("The broker ends every session at once.", "Try again later.")

    def visiting(self, merchant: str) -> KeptSession | None:
        """Give the visit to a merchant that can still be used."""
        return self._find(merchant_place(merchant))

    def leave(self) -> None:
        """End every visit on this side; the broker ends its own when they have been idle for too long."""
        with self._context.profile.store.immediate() as tx:
            tx.execute(sa.delete(visits))
        self._context.uplink.close()

    def public_link(self) -> Link:
        """Give a connection on which cards can be read: the open one, or one without a session."""
        uplink = self._context.uplink
        present = uplink.current("shop")
        if present is not None and present.connection.ready:
            return present
        return uplink.link(self._context.random(16), "shop")

    def _session(self, place: str) -> ShopSession:
        context = self._context
        kept = self._find(place) or self._open(place)
        link = context.uplink.link(kept.session, "shop")
        with context.profile.store.immediate() as tx:
            keeping.touch(tx, visits, kept.session, context.clock())
            apart.note_use(tx, "shop", context.clock())
        return Session(link, kept, codec.TO_SHOP, context.clock, context.random)

    def _open(self, place: str) -> KeptSession:
        context = self._context
        countdown = Countdown(context.clock, context.timeout_ms)
        given_up = 0
        while True:
            sid = context.random(16)
            link = context.uplink.link(sid, "shop")
            opening = Opening(
                link, context.broker(link), context.profile.market_id, context.clock, context.random
            )
            ticket = self._ticket(sid)
            try:
                kept, _ = opening.open(messages.TicketCredential(ticket=ticket), "shop", context.timeout_ms)
            except HelloRefusedError as refused:
                if refused.code not in _USED_UP:
                    refused.wait(link, context.clock, countdown)
                    continue
                with context.profile.store.immediate() as tx:
                    context.wallet.spend(tx, sid)
                given_up += 1
                if given_up == MOST_GIVEN_UP:
                    raise refused.explained(context.clock) from None
                continue
            with context.profile.store.immediate() as tx:
                context.wallet.spend(tx, sid)
                keeping.keep(tx, visits, place, kept)
            return kept

    def _ticket(self, sid: bytes) -> messages.Token:
        context, now = self._context, self._context.clock()
        with context.profile.store.immediate() as tx:
            ticket = context.wallet.reserve_ticket(tx, sid, now)
            _, young_until = context.wallet.stock(tx, now)
            if ticket is not None:
                apart.note_use(tx, "shop", now)
        if ticket is None:
            wait = -(-(young_until - now) // config.MINUTE_MS) if young_until else 0
            raise OutOfTicketsError(
                "No ticket is left to open a shop session with.",
                f"The last drawn become usable in {wait} min; `--now` uses them at once."
                if wait
                else "`veilmart withdraw` draws tickets.",
                retry_at=young_until or None,
            )
        return ticket

    def _find(self, place: str) -> KeptSession | None:
        with self._context.profile.store.immediate() as tx:
            return keeping.find(tx, visits, place, self._context.clock())

    def _forget(self, place: str) -> None:
        with self._context.profile.store.immediate() as tx:
            keeping.forget(tx, visits, place)
        self._context.uplink.close()


def merchant_away(merchant: str) -> MerchantOfflineError:
    """Give the error for a merchant that is away."""
    return MerchantOfflineError(f"{merchant} is away.", "Try again later.")
