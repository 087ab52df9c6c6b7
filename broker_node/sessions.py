"""Sessions: their keys, in the store and in memory, from the `Welcome` to their end.

Rule 1. Keys rest in the store wrapped under a daily key that is a file, and are erased with it. Hot ones
are cached here; the cache is filled after the commit.

Rule 2. What may be done is read from the session's scope. Whatever touches an account reads the rows of
session and account again, in its own transaction.

Rule 3. A session of a closed account hears again what the account was answered (`accounts`, rule 3);
whatever else touches the account is refused.

Rule 4. An ended session stays ended: the hash of its `Hello` is kept until that hello key is erased.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from broker_node import schema
from broker_node.accounts import HAVE_SESSIONS
from broker_node.audit import Audit
from broker_node.keys import BrokerKeys
from broker_node.sends import Session
from common import messages
from common.clock import Random
from common.config import Limits
from common.errors import RefusedError
from common.frames import SessionKeys
from common.store import Row, Tx, one_of


@dataclass(slots=True)
class Live:
    """A session in the cache."""

    session: Session
    keys: SessionKeys
    expires: int
    idle_ms: int
    last_seen: int
    bytes_used: int
    noted: int
    """`last_seen` as the store has it."""

    def ended(self, now: int) -> bool:
        """Whether it is over, by its end or by idleness."""
        return now >= self.expires or (self.idle_ms > 0 and now > self.last_seen + self.idle_ms)


@dataclass(frozen=True, slots=True)
class Owner:
    """The account of a session, in the state that this transaction has read."""

    account: int
    state: str


def demand_open(owner: Owner) -> int:
    """Give the account. Raises `RefusedError("account_closed")` where it only hears old answers again."""
    if owner.state == "closed":
        raise RefusedError("account_closed")
    return owner.account


_OWNER = (
    sa.select(schema.accounts.c.id, schema.accounts.c.state)
    .join(schema.sessions, schema.sessions.c.account == schema.accounts.c.id)
    .where(schema.sessions.c.sid == sa.bindparam("of"))
    .where(schema.sessions.c.generation == schema.accounts.c.generation)
    .where(one_of(schema.accounts.c.state, HAVE_SESSIONS))
)
_SESSION = sa.insert(schema.sessions)
NOTE_EVERY_MS = 60_000


class Sessions:
    """Keeps, finds and ends sessions."""

    def __init__(self, keys: BrokerKeys, audit: Audit, limits: Limits) -> None:
        self._keys = keys
        self._audit = audit
        self._limits = limits
        self._live: dict[bytes, Live] = {}
        self._newest: dict[str, bytes] = {}
        self._staged: list[Live] = []
        self._ended: list[bytes] = []
        self._to_forget: list[bytes] = []

    # --- finding ---------------------------------------------------------------------------------------

    def find(self, sid: bytes) -> Live | None:
        """Give a cached session."""
        return self._live.get(sid)

    def of_merchant(self, merchant: str, now: int) -> Live | None:
        """Give the merchant's newest session, if it is open."""
        live = self._live.get(self._newest.get(merchant, b""))
        return live if live is not None and not live.ended(now) else None

    def by_key_id(self, merchant: str, key_id: bytes) -> Live | None:
        """Give the merchant's session that a frame was made with: the newest, or the one before."""
        newest = self._live.get(self._newest.get(merchant, b""))
        if newest is not None and newest.keys.key_id == key_id:
            return newest
        for live in self._live.values():
            if live.session.merchant == merchant and live.keys.key_id == key_id:
                return live
        return None

    def load(self, tx: Tx, sids: Iterable[bytes]) -> None:
        """Bring sessions into the cache, where their wrapping key still exists."""
        rows = tx.all(sa.select(schema.sessions).where(schema.sessions.c.sid.in_(list(sids))))
        for row in rows:
            self._cache(row)

    def load_merchants(self, tx: Tx) -> None:
        """Bring every merchant's sessions into the cache, at the start."""
        for row in tx.all(sa.select(schema.sessions).where(schema.sessions.c.scope == "merchant")):
            self._cache(row)
        for row in tx.all(sa.select(schema.merchants.c.id, schema.merchants.c.session)):
            if row["session"] is not None:
                self._newest[row["id"]] = row["session"]

    def _cache(self, row: Row) -> None:
        wrap = self._keys.wrap.by_id.get(row["wrap_id"])
        if wrap is None:
            return
        wrapped = row["wrapped"]
        raw = wrap.gcm.decrypt(wrapped[:12], wrapped[12:], row["sid"])
        session = Session(row["sid"], row["scope"], row["account"], row["generation"], row["merchant"])
        self._live[row["sid"]] = Live(
            session,
            SessionKeys.from_bytes(raw),
            row["expires"],
            0 if row["merchant"] else self._limits.session_idle_ms,
            row["last_seen"],
            row["bytes_used"],
            row["last_seen"],
        )

    def require_account(self, tx: Tx, session: Session) -> int:
        """Give the account of an account session after reading both rows again. Raises `RefusedError`."""
        return demand_open(self.require_owner(tx, session))

    def require_owner(self, tx: Tx, session: Session) -> Owner:
        """Give the account of an account session, which may be closed, as `require_account` does."""
        row = tx.first(_OWNER, {"of": session.sid})
        if row is None:
            raise RefusedError("session_over")
        return Owner(row["id"], row["state"])

    # --- opening ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Forget what a transaction that was rolled back had staged."""
        self._staged.clear()
        self._ended.clear()

    def committed(self) -> None:
        """Put what was staged into the cache."""
        for live in self._staged:
            self._live[live.session.sid] = live
            if live.session.merchant is not None:
                self._newest[live.session.merchant] = live.session.sid
        self._staged.clear()
        self._to_forget += self._ended
        self._ended.clear()

    def stage(
        self, tx: Tx, session: Session, keys: SessionKeys, welcome: messages.Welcome, now: int, random: Random
    ) -> None:
        """Store a session that opens, its keys wrapped; the cache has it after the commit."""
        wrap, nonce = self._keys.wrap.current(now), random(12)
        tx.insert(
            _SESSION,
            {
                "sid": session.sid,
                "scope": session.scope,
                "account": session.account,
                "generation": session.generation,
                "merchant": session.merchant,
                "wrap_id": wrap.key_id,
                "wrapped": nonce + wrap.gcm.encrypt(nonce, keys.to_bytes(), session.sid),
                "opened": now,
                "last_seen": now,
                "expires": welcome.expires,
                "bytes_used": 0,
            },
        )
        self._staged.append(Live(session, keys, welcome.expires, welcome.idle_ms, now, 0, now))

    def let_fade(self, tx: Tx, merchant: str, now: int) -> None:
        """Let the merchant's sessions end, after one freshness window: something may be under way in them."""
        end = now + self._limits.freshness_ms
        tx.execute(
            sa.update(schema.sessions)
            .where(schema.sessions.c.merchant == merchant)
            .where(schema.sessions.c.expires > end)
            .values(expires=end)
        )
        for live in self._live.values():
            if live.session.merchant == merchant:
                live.expires = min(live.expires, end)

    def opens(self, merchant: str) -> bool:
        """Whether this transaction opens a session of the merchant's."""
        return any(live.session.merchant == merchant for live in self._staged)

    # --- ending ----------------------------------------------------------------------------------------

    def end(self, tx: Tx, session: Session) -> None:
        """End a session: its keys are erased in the store now, and in the cache once it was answered."""
        tx.execute(sa.delete(schema.sessions).where(schema.sessions.c.sid == session.sid))
        tx.execute(sa.update(schema.welcomes).where(schema.welcomes.c.sid == session.sid).values(frame=b""))
        self._ended.append(session.sid)

    def forget_ended(self) -> None:
        """Erase from the cache what has ended; called when its last frame was made."""
        for sid in self._to_forget:
            self._live.pop(sid, None)
        self._to_forget.clear()

    def revoke_merchants(self, tx: Tx, revoked: Iterable[str], now: int, random: Random) -> list[str]:
        """End the sessions of revoked merchants; gives those that were admitted until now."""
        newly: list[str] = []
        for merchant in revoked:
            steps = tx.changed(
                sa.update(schema.merchants)
                .where(schema.merchants.c.id == merchant)
                .where(schema.merchants.c.state == "admitted")
                .values(state="revoked", session=None)
            )
            if steps:
                newly.append(merchant)
                self._audit.record(tx, "merchant.revoked", {"merchant": merchant}, now, random)
                tx.execute(sa.delete(schema.sessions).where(schema.sessions.c.merchant == merchant))
                self._ended += [s for s, live in self._live.items() if live.session.merchant == merchant]
        return newly

    def sweep(self, tx: Tx, now: int) -> None:
        """Write down when sessions were last used, and erase what is over."""
        for sid, live in list(self._live.items()):
            if live.ended(now):
                del self._live[sid]
            elif live.last_seen - live.noted >= NOTE_EVERY_MS:
                live.noted = live.last_seen
                tx.execute(
                    sa.update(schema.sessions)
                    .where(schema.sessions.c.sid == sid)
                    .values(last_seen=live.last_seen, bytes_used=live.bytes_used)
                )
        idle = sa.and_(
            schema.sessions.c.merchant.is_(None),
            schema.sessions.c.last_seen < now - self._limits.session_idle_ms - 2 * NOTE_EVERY_MS,
        )
        tx.execute(sa.delete(schema.sessions).where(sa.or_(schema.sessions.c.expires < now, idle)))
        hello_keys = list(self._keys.hello.by_id)
        tx.execute(sa.delete(schema.welcomes).where(schema.welcomes.c.hello_key_id.not_in(hello_keys)))
