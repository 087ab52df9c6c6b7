"""Looking for swaps and orders by their numbers, in shop sessions; and claiming what orders still give back.

Rule 1. What is found ends its session: the next is looked for in another one (`together` says otherwise).
What is unknown to the broker tells it nothing, and stays unknown: the broker refuses what had that number if
it comes after all. It keeps only so much in mind for one session (`MOST_UNKNOWN`).

Rule 2. How far a search has come is stored with what it brought.

Rule 3. An order found by its number brings money and nothing else: what it was for is not known any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import sqlalchemy as sa

from common import codec, config, messages, slots
from common.errors import NotFoundError, PaymentsStoppedError, RejectedError, UntrustedError
from common.store import Row, Tx
from customer_node import issuers, kept, numbers, old_copy
from customer_node.change import refund_coins
from customer_node.context import Context
from customer_node.orders import Secrets
from customer_node.refusals import AlreadySignedError
from customer_node.restored import Restored
from customer_node.schema import issuer_keys, restored_orders, searches, tokens, visits
from customer_node.shop import Shop, ShopSession
from customer_node.wallet import Key

OPEN: Final = ("held", "refundable", "disputed")
"""States that an order cannot stay in: it is asked about again at each call."""

PAID: Final = ("captured", "settled")
"""States in which a merchant may still give money back: it is asked about where the owner says so."""

MOST_CLAIMS: Final = 1000
MOST_UNKNOWN: Final = 512
"""How many numbers are asked for in vain in one session."""

_CLAIM: Final[codec.Codec[messages.ClaimRefund]] = codec.Codec(messages.ClaimRefund)


class Finding:
    """Shop scope of a restoring."""

    def __init__(self, context: Context, shop: Shop, restored: Restored) -> None:
        self._context = context
        self._shop = shop
        self._restored = restored
        self._asked: set[bytes] = set()
        """Orders whose state was heard by this object."""

    def search_all(self, together: int) -> None:
        """Look for swaps, then for orders."""
        while True:
            with self._context.profile.store.immediate() as tx:
                open_ = open_searches(tx)
                found = sum(row["found"] for row in tx.all(sa.select(searches.c.found)))
            if not open_:
                break
            place = f"restore/{found // together}"
            self._shop.within(place, lambda session: self._search(session, together))
            self._leave(place)

    def ask_again(self, *, refunds: bool) -> None:
        """Look what became of orders that were found before, each in a session of its own."""
        with self._context.profile.store.immediate() as tx:
            left = waiting(tx, refunds=refunds)
        for order_id in [each for each in left if each not in self._asked]:
            place = f"restore/order/{order_id.hex()}"
            self._shop.within(place, lambda session, it=order_id: self._find_order(session, it))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            self._leave(place)

    def _leave(self, place: str) -> None:
        with self._context.profile.store.immediate() as tx:
            kept.forget(tx, visits, place)
        self._context.uplink.close()

    def _search(self, session: ShopSession, together: int) -> None:
        """Ask for one number after another until as many are found, or not, as may stand in one session."""
        self._context.broker(session.link)
        left, unknown = together, 0
        while left and unknown < MOST_UNKNOWN:
            with self._context.profile.store.immediate() as tx:
                open_ = open_searches(tx)
            if not open_:
                return
            row = open_[0]
            seed = self._context.profile.seed
            wanted = numbers.id_of(seed, row["kind"], row["era"], row["month"], row["next"])
            found = (
                self._find_swap(session, wanted, row)
                if row["kind"] == "swap"
                else self._find_order(session, wanted, row)
            )
            if found:
                left -= 1
            else:
                unknown += 1

    def _find_swap(self, session: ShopSession, operation: bytes, row: Row) -> bool:
        context = self._context
        try:
            answer = session.ask(
                messages.RepeatSwap(operation=operation), messages.Swapped, context.timeout_ms
            )
        except NotFoundError:
            with context.profile.store.immediate() as tx:
                _advance(tx, row, found=False)
            return False
        with context.profile.store.immediate() as tx:
            self._restored.take(tx, "swaps", "coin", answer.signatures, context.clock())
            _advance(tx, row, found=True)
        return True

    def _find_order(self, session: ShopSession, order_id: bytes, row: Row | None = None) -> bool:
        """Ask about an order: take the coins of its claims, and claim what is due."""
        context = self._context
        secrets = Secrets.of(numbers.order_secret(context.profile.seed, order_id))
        # A claim that a crash cut short comes first: what is due is then what the broker says it is.
        self._claim(session, order_id, secrets.claim, begun=True)
        claims: list[list[bytes]] = []
        more = True
        while more:
            question = messages.FindOrder(order_id=order_id, claim_secret=secrets.claim, after=len(claims))
            try:
                answer = session.ask(
                    question, messages.OrderFound, context.timeout_ms, partial(_is_new, claims)
                )
            except NotFoundError:
                with context.profile.store.immediate() as tx:
                    if row is not None:
                        _advance(tx, row, found=False)
                return False
            claims += answer.claims
            more = answer.more and bool(answer.claims) and len(claims) < MOST_CLAIMS
        with context.profile.store.immediate() as tx:
            for signatures in claims:
                self._restored.take(tx, "refunds", "coin", signatures, context.clock())
            _keep_order(tx, answer)
            if row is not None:
                _advance(tx, row, found=True)
        self._asked.add(order_id)
        self._claim(session, order_id, secrets.claim)
        return True

    def _claim(
        self, session: ShopSession, order_id: bytes, claim_secret: bytes, *, begun: bool = False
    ) -> None:
        """Claim what of an order nobody claimed before, or only go on with a claim that was begun.

        Raises as asking does, and `UntrustedError`.
        """
        context, month, tries = self._context, slots.month_of(session.now), old_copy.Tries()
        while True:
            with context.profile.store.immediate() as tx:
                request = self._open_claim(tx, order_id)
                if request is None and not begun:
                    request = self._new_claim(tx, order_id, claim_secret, month, tries.left_out)
            if request is None:
                return
            try:
                answer = session.ask(request, messages.RefundIssued, context.timeout_ms)
            except PaymentsStoppedError:
                raise
            except RejectedError as error:
                with context.profile.store.immediate() as tx:
                    context.wallet.end_operation(tx, request.operation, "refused")
                if not isinstance(error, AlreadySignedError):
                    raise
                tries.count()
                if tries.over:
                    raise old_copy.made_too_often() from None
                continue
            try:
                with context.profile.store.immediate() as tx:
                    self._claimed(tx, order_id, request.operation, answer.signatures)
            except UntrustedError:
                context.profile.keep_evidence("refund", codec.pack(answer), context.clock())
                raise
            tries = old_copy.Tries()

    def _open_claim(self, tx: Tx, order_id: bytes) -> messages.ClaimRefund | None:
        row = tx.one(sa.select(restored_orders.c.claim).where(restored_orders.c.order_id == order_id))
        if row is None or row["claim"] is None:
            return None
        present = self._context.wallet.operation(tx, row["claim"])
        return None if present is None else _CLAIM.unpack(present.request)

    def _new_claim(
        self, tx: Tx, order_id: bytes, claim_secret: bytes, month: str, left_out: int
    ) -> messages.ClaimRefund | None:
        context = self._context
        row = tx.one(sa.select(restored_orders).where(restored_orders.c.order_id == order_id))
        if row is None or row["due"] <= 0:
            return None
        held = context.wallet.held(tx, context.clock())
        chosen = sorted(refund_coins(row["due"], held, issuers.top(tx, month)), reverse=True)
        operation = context.random(16)
        kinds: list[Key] = [("coin", value) for value in chosen[: config.MAXIMUM_COINS]]
        context.wallet.leave_out(tx, month, left_out)
        request = messages.ClaimRefund(
            operation=operation,
            order_id=order_id,
            claim_secret=claim_secret,
            blinded=context.wallet.draw(tx, operation, kinds, month),
        )
        context.wallet.begin_operation(tx, operation, "refund", codec.pack(request), context.clock())
        where = restored_orders.c.order_id == order_id
        tx.execute(sa.update(restored_orders).where(where).values(claim=operation))
        return request

    def _claimed(self, tx: Tx, order_id: bytes, operation: bytes, signatures: Sequence[bytes]) -> None:
        context, found = self._context, restored_orders
        context.wallet.issue(tx, operation, signatures, context.clock())
        amount: int = tx.scalar(
            sa.select(sa.func.sum(issuer_keys.c.value))
            .select_from(tokens.join(issuer_keys, tokens.c.key_id == issuer_keys.c.key_id))
            .where(tokens.c.operation == operation)
        )
        tx.execute(
            sa.update(found)
            .where(found.c.order_id == order_id)
            .values(due=found.c.due - amount, claimed=found.c.claimed + amount, claim=None)
        )
        tx.execute(
            sa.update(found)
            .where(found.c.order_id == order_id, found.c.due == 0, found.c.state == "refundable")
            .values(state="refunded")
        )


def open_searches(tx: Tx) -> list[Row]:
    """List the searches that are not at their end: swaps first, the newest month first."""
    return list(
        tx.all(
            sa.select(searches)
            .where(searches.c.misses < numbers.GAP)
            .order_by(searches.c.kind.desc(), searches.c.era, searches.c.month.desc())
        )
    )


def waiting(tx: Tx, *, refunds: bool) -> list[bytes]:
    """List orders that were found and may bring more."""
    found = restored_orders.c
    asked = sa.or_(found.state.in_((*OPEN, *PAID) if refunds else OPEN), found.due > 0)
    return [row["order_id"] for row in tx.all(sa.select(found.order_id).where(asked))]


def _is_new(claims: Sequence[Sequence[bytes]], answer: messages.OrderFound) -> bool:
    """Tell whether a page is another one than those before: a question that was repeated has two answers."""
    return not any(claim in claims for claim in answer.claims)


def _advance(tx: Tx, row: Row, *, found: bool) -> None:
    where = (
        searches.c.kind == row["kind"],
        searches.c.era == row["era"],
        searches.c.month == row["month"],
        searches.c.next == row["next"],
    )
    values = {
        "next": row["next"] + 1,
        "misses": 0 if found else row["misses"] + 1,
        "found": row["found"] + int(found),
    }
    tx.execute(sa.update(searches).where(*where).values(**values))


def _keep_order(tx: Tx, answer: messages.OrderFound) -> None:
    values = {
        "state": answer.state,
        "amount": answer.amount,
        "due": answer.due,
        "deadline": answer.deadline,
    }
    where = restored_orders.c.order_id == answer.order_id
    if not tx.changed(sa.update(restored_orders).where(where).values(**values)):
        tx.execute(sa.insert(restored_orders), {**values, "order_id": answer.order_id, "claimed": 0})
