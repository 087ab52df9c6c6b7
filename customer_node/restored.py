"""Tokens that come back: each blind signature is matched, verified, stored, and marked where it is spent.

Rule 1. A token that is there already is left as it is, whatever is said of it. One that was given up, since
another copy of the profile had drawn it, is not there yet. One that is still asked for gets its signature put
by: it is there when the answer is that this was drawn before (`Wallet.end_operation`).

Rule 2. A signature that no counter explains may be another wallet's. It is kept, and looked at again when
more is known (`match_rest`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import sqlalchemy as sa

from common import coins, messages
from common.errors import WireError
from common.store import Tx
from customer_node import numbers, spent
from customer_node.context import Context
from customer_node.issuers import issuer_of
from customer_node.matching import Matcher
from customer_node.schema import eras, issuer_keys, searches, tokens, unmatched
from customer_node.spent import SpentMarks
from customer_node.views import RestoredSourceView

Source: TypeAlias = Literal["account", "swaps", "refunds"]

MARKERS: Final[dict[Source, bytes]] = {
    "account": b"restored account",
    "swaps": b"restored swap   ",
    "refunds": b"restored refund ",
}
"""What stands in a restored token's `operation`: where it came back from."""


class Restored:
    """The tokens that were brought back into this profile."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._matcher: Matcher | None = None
        self._spent: SpentMarks | None = None

    @property
    def missing(self) -> int:
        """How many spent coins the broker counts and the bus did not show."""
        return 0 if self._spent is None else self._spent.missing

    def take(
        self, tx: Tx, source: Source, purpose: coins.Purpose, signatures: Sequence[bytes], usable_from: int
    ) -> None:
        """Store the tokens that blind signatures belong to; those of none wait until more is known."""
        matcher = self._match(tx)
        for signature in signatures:
            found = matcher.find(purpose, signature)
            if found is None:
                row = {
                    "signature": signature,
                    "purpose": purpose,
                    "source": source,
                    "usable_from": usable_from,
                }
                if tx.one(sa.select(unmatched).where(unmatched.c.signature == signature)) is None:
                    tx.execute(sa.insert(unmatched), row)
                continue
            self._store(tx, source, *found, signature, usable_from)

    def _store(
        self,
        tx: Tx,
        source: Source,
        key: messages.IssuerKey,
        counter: int,
        signature: bytes,
        usable_from: int,
    ) -> None:
        place = (tokens.c.key_id == key.key_id, tokens.c.counter == counter)
        present = tx.one(sa.select(tokens.c.state).where(*place))
        if present is not None and present["state"] not in {"void", "requested"}:
            return
        try:
            token = coins.unblind(key, self._context.profile.seed, counter, signature)
        except WireError:
            return
        if present is not None and present["state"] == "requested":
            put_by = {"holder": MARKERS[source], "blind_signature": signature, "usable_from": usable_from}
            tx.execute(sa.update(tokens).where(*place, tokens.c.state == "requested").values(**put_by))
            return
        mark = coins.spent_mark(coins.prepared(key.purpose, key.key_id, token.prefix, token.serial))
        gone = self._spent is not None and mark in self._spent
        row = {
            "key_id": key.key_id,
            "counter": counter,
            "operation": MARKERS[source],
            "position": 0,
            "state": "spent" if gone else "free",
            "blind_signature": signature,
            "usable_from": usable_from,
        }
        if present is None:
            tx.execute(sa.insert(tokens), row)
        else:
            tx.execute(sa.update(tokens).where(*place, tokens.c.state == "void").values(**row))
        self._pass(tx, key, counter)

    @staticmethod
    def _pass(tx: Tx, key: messages.IssuerKey, counter: int) -> None:
        """Let what is drawn next have a later counter, where this one is of the present era."""
        era, count = numbers.split_counter(counter)
        if era == numbers.present_era(tx):
            behind = (issuer_keys.c.key_id == key.key_id, issuer_keys.c.next_counter <= count)
            tx.execute(sa.update(issuer_keys).where(*behind).values(next_counter=count + 1))

    def _match(self, tx: Tx) -> Matcher:
        if self._matcher is None:
            keys = [issuer_of(row) for row in tx.all(sa.select(issuer_keys))]
            known = {
                each["era"] for each in [*tx.all(sa.select(searches.c.era)), *tx.all(sa.select(eras.c.era))]
            }
            self._matcher = Matcher(self._context.profile.seed, keys, known)
            restored = sa.select(tokens.c.key_id, tokens.c.counter)
            for row in tx.all(restored.where(tokens.c.operation.in_(MARKERS.values()))):
                self._matcher.note(row["key_id"], row["counter"])
        return self._matcher

    def match_rest(self) -> None:
        """Look further for what nothing was found for, now that everything else is known."""
        while True:
            with self._context.profile.store.immediate() as tx:
                matcher = self._match(tx)
                rows = tx.all(sa.select(unmatched))
                for row in rows:
                    found = matcher.find(row["purpose"], row["signature"])
                    if found is not None:
                        self._store(tx, row["source"], *found, row["signature"], row["usable_from"])
                        tx.execute(sa.delete(unmatched).where(unmatched.c.signature == row["signature"]))
                left = tx.scalar(sa.select(sa.func.count()).select_from(unmatched))
            if not left or not matcher.widen():
                break
        if self._spent is not None:
            # What was asked for until now, and came back instead.
            self._mark_spent(self._spent)

    def match_spent(self) -> None:
        """Read the public spent set, and mark what of the wallet is in it."""
        self._spent = spent.read(self._context)
        self._mark_spent(self._spent)

    def _mark_spent(self, marks: SpentMarks) -> None:
        seed = self._context.profile.seed
        query = (
            sa.select(tokens.c.counter, issuer_keys)
            .join(issuer_keys, tokens.c.key_id == issuer_keys.c.key_id)
            .where(tokens.c.state == "free", tokens.c.operation.in_(MARKERS.values()))
        )
        with self._context.profile.store.immediate() as tx:
            for row in tx.all(query):
                key = issuer_of(row)
                if coins.mark_of(key, seed, row["counter"]) in marks:
                    place = (tokens.c.key_id == key.key_id, tokens.c.counter == row["counter"])
                    tx.execute(
                        sa.update(tokens).where(*place, tokens.c.state == "free").values(state="spent")
                    )

    def sources(self, tx: Tx) -> tuple[RestoredSourceView, ...]:
        """Count what came back, by where from."""
        query = sa.select(
            tokens.c.operation, tokens.c.state, issuer_keys.c.purpose, issuer_keys.c.value
        ).join(issuer_keys, tokens.c.key_id == issuer_keys.c.key_id)
        rows = tx.all(query.where(tokens.c.operation.in_(MARKERS.values())))
        sources = []
        for source, marker in MARKERS.items():
            own = [row for row in rows if row["operation"] == marker]
            live = [row for row in own if row["state"] != "spent"]
            kinds = Counter(row["purpose"] for row in live)
            sources.append(
                RestoredSourceView(
                    source=source,
                    coins=kinds["coin"],
                    amount=sum(row["value"] for row in live),
                    tickets=kinds["ticket"],
                    spent=len(own) - len(live),
                )
            )
        return tuple(sources)
