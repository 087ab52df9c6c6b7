"""Hello: a credential becomes a session, or a refusal.

    SignUp, LogIn            an account session, once the pool has looked at the password
    TicketCredential         a shop session: the ticket is spent, and says nothing about who drew it
    MerchantCredential       a merchant's session: certificate, signature, rising counter

Rule 1. One `Hello` per session id. The same bytes get the same `Welcome`, byte for byte; others are
refused.

Rule 2. The scope decides what may follow, in the types: an account session cannot even decode an order,
a shop session holds no account.

Rule 3. Passwords are checked in pools (`logins.py`); what the check rests on is looked at again in the
transaction that opens the session.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa

from broker_node import accounts, schema
from broker_node.audit import Audit
from broker_node.keys import BrokerKeys, Revocations
from broker_node.logins import LaterError, Logins
from broker_node.mint import Mint, owner_of, spend
from broker_node.sends import Session
from broker_node.sessions import Sessions
from common import frames, messages, topics
from common.clock import Random
from common.config import Limits
from common.core import Arrival, Job, Outgoing
from common.credentials import MERCHANT_HELLO_LABEL, merchant_hello_statement
from common.errors import MalformedError, RefusedError, WireError
from common.frames import SessionKeys
from common.keys import verify_certificate, verify_identity
from common.store import Tx

_WELCOME = sa.insert(schema.welcomes)


@dataclass(frozen=True, slots=True)
class Greeting:
    """An opened `Hello` and the place that it came from. `sid` is None for a merchant."""

    frame: bytes = field(repr=False)
    hello: messages.Hello = field(repr=False)
    sid: bytes | None
    merchant: str | None

    @property
    def hash(self) -> bytes:
        """What identifies this `Hello`."""
        return hashlib.sha256(self.frame).digest()

    @property
    def reply_topic(self) -> str:
        """Where its `Welcome` goes."""
        if self.merchant is not None:
            return topics.merchant_in(self.merchant)
        return topics.session_down(self.sid or b"")


@dataclass(frozen=True, slots=True)
class PasswordResult:
    """A password check that came back from the pool."""

    greeting: Greeting
    checked: accounts.PasswordChecked


class Reception:
    """Answers every `Hello`."""

    def __init__(
        self,
        keys: BrokerKeys,
        mint: Mint,
        audit: Audit,
        revocations: Revocations,
        sessions: Sessions,
        limits: Limits,
    ) -> None:
        self._keys = keys
        self._mint = mint
        self._audit = audit
        self._revocations = revocations
        self._sessions = sessions
        self._limits = limits
        self._logins = Logins(limits)

    def begin(self) -> None:
        """Forget what a transaction that was rolled back wanted checked."""
        self._logins.begin()

    def committed(self) -> None:
        """Note what goes to the pools now."""
        self._logins.committed()

    def greet(self, tx: Tx, greeting: Greeting, now: int, random: Random) -> list[Outgoing | Job]:
        """Answer a `Hello`. Raises `RefusedError` where nothing at all is answered."""
        if (reply := self._repeated(tx, greeting)) is not None:
            return [reply]
        try:
            return self._admit(tx, greeting, now, random)
        except LaterError as later:
            return [self._refuse(greeting, later.code, later.retry_after_ms, random)]
        except RefusedError as error:
            return [self._refuse(greeting, error.code, 0, random)]

    def _repeated(self, tx: Tx, greeting: Greeting) -> Outgoing | None:
        """Give the stored `Welcome` of the same bytes. Raises `RefusedError` where they may not open."""
        known = tx.one(
            sa.select(schema.welcomes.c.hello_hash, schema.welcomes.c.frame).where(
                sa.or_(
                    schema.welcomes.c.hello_hash == greeting.hash,
                    schema.welcomes.c.sid == (greeting.sid or b""),
                )
            )
        )
        if known is None:
            return None
        if known["hello_hash"] != greeting.hash or not known["frame"]:
            raise RefusedError("session_over")
        return self._reply(greeting, known["frame"])

    def _admit(self, tx: Tx, greeting: Greeting, now: int, random: Random) -> list[Outgoing | Job]:
        match greeting.hello.credential:
            case messages.TicketCredential(ticket=ticket) if greeting.sid is not None:
                checked = self._mint.verify([ticket], "ticket", now)
                if spend(tx, {owner_of("hello", greeting.hash): checked}):
                    raise RefusedError("double_spend")
                session = Session(greeting.sid, "shop", None, None, None)
                return [self._open(tx, greeting, session, self._limits.shop_session_ms, now, random)]
            case messages.MerchantCredential() as credential if greeting.merchant is not None:
                return self._admit_merchant(tx, greeting, greeting.merchant, credential, now, random)
            case (messages.LogIn() | messages.SignUp()) as credential if greeting.sid is not None:
                job = self._logins.ask(tx, greeting.hash, credential, self._came_back(greeting), now)
                return [] if job is None else [job]
        raise RefusedError("authentication")

    def _came_back(self, greeting: Greeting) -> Callable[[accounts.PasswordChecked], list[Arrival]]:
        def arrive(checked: accounts.PasswordChecked) -> list[Arrival]:
            return [Arrival(None, greeting.hash[:16], PasswordResult(greeting, checked))]

        return arrive

    def password_checked(self, tx: Tx, result: PasswordResult, now: int, random: Random) -> list[Outgoing]:
        """Open an account session, or refuse it, after the pool has looked at the password."""
        checked, greeting = result.checked, result.greeting
        # The same `Hello`, or another one for this session, may have been faster.
        if (reply := self._repeated(tx, greeting)) is not None:
            return [reply]
        credential = greeting.hello.credential
        if greeting.sid is None or not isinstance(credential, messages.LogIn | messages.SignUp):
            raise TypeError("a password was checked for something else")
        try:
            account, generation = self._logins.settle(tx, credential, checked, now)
        except LaterError as failed:
            refusal = self._refuse(greeting, failed.code, failed.retry_after_ms, random)
            # Kept like a Welcome: whoever plays these bytes again must not count another failure.
            self._remember(tx, greeting, greeting.hash[:16], refusal.payload)
            return [refusal]
        except RefusedError as error:
            return [self._refuse(greeting, error.code, 0, random)]
        session = Session(greeting.sid, "account", account, generation, None)
        return [self._open(tx, greeting, session, self._limits.account_session_ms, now, random)]

    def _admit_merchant(
        self,
        tx: Tx,
        greeting: Greeting,
        merchant: str,
        credential: messages.MerchantCredential,
        now: int,
        random: Random,
    ) -> list[Outgoing | Job]:
        try:
            certificate = verify_certificate(credential.certificate, self._keys.ca_der, now, "merchant")
            statement = merchant_hello_statement(
                self._keys.market,
                frames.hello_key_id(greeting.frame),
                greeting.hello.secret,
                greeting.hello.ephemeral,
                credential.counter,
            )
            verify_identity(certificate.public_key, MERCHANT_HELLO_LABEL, statement, credential.signature)
        except WireError as error:
            raise RefusedError("authentication") from error
        if certificate.subject_id != merchant:
            raise RefusedError("authentication")
        if self._revocations.has_serial(certificate.serial_number):
            raise RefusedError("revoked")
        row = tx.one(sa.select(schema.merchants).where(schema.merchants.c.id == merchant))
        if row is not None and credential.counter <= row["counter"]:
            raise RefusedError("authentication")
        sid = random(16)
        values = {
            "state": "admitted",
            "fingerprint": certificate.fingerprint,
            "serial": f"{certificate.serial_number:x}",
            "counter": credential.counter,
            "session": sid,
        }
        if row is None:
            tx.insert(sa.insert(schema.merchants), {"id": merchant, **values})
            self._audit.record(tx, "merchant.admitted", {"merchant": merchant}, now, random)
        else:
            tx.execute(sa.update(schema.merchants).where(schema.merchants.c.id == merchant).values(**values))
        self._sessions.let_fade(tx, merchant, now)
        session = Session(sid, "merchant", None, None, merchant)
        return [self._open(tx, greeting, session, self._limits.merchant_session_ms, now, random)]

    def _open(
        self, tx: Tx, greeting: Greeting, session: Session, life_ms: int, now: int, random: Random
    ) -> Outgoing:
        idle_ms = 0 if session.scope == "merchant" else self._limits.session_idle_ms
        answer = messages.Welcome(
            session=session.sid,
            scope=session.scope,
            clock=now,
            expires=now + life_ms,
            idle_ms=idle_ms,
            byte_budget=self._limits.session_byte_budget,
        )
        frame, keys = self._make(greeting, answer, random)
        self._sessions.stage(tx, session, keys, answer, now, random)
        self._remember(tx, greeting, session.sid, frame)
        return self._reply(greeting, frame)

    @staticmethod
    def _remember(tx: Tx, greeting: Greeting, sid: bytes, frame: bytes) -> None:
        """Store the one answer to this `Hello`; for a refusal `sid` is another, so that the id stays free."""
        tx.insert(
            _WELCOME,
            {
                "hello_hash": greeting.hash,
                "sid": sid,
                "hello_key_id": frames.hello_key_id(greeting.frame),
                "frame": frame,
            },
        )

    def _refuse(self, greeting: Greeting, code: str, retry_after_ms: int, random: Random) -> Outgoing:
        refusal = messages.HelloRefused(code=code, retry_after_ms=retry_after_ms)  # type: ignore[arg-type] # codes of ours
        frame, _ = self._make(greeting, refusal, random)
        return self._reply(greeting, frame)

    @staticmethod
    def _make(greeting: Greeting, answer: messages.HelloAnswer, random: Random) -> tuple[bytes, SessionKeys]:
        try:
            return frames.make_welcome(
                greeting.frame, greeting.hello, greeting.reply_topic, answer, random(44)
            )
        except MalformedError as error:
            raise RefusedError("authentication") from error

    def _reply(self, greeting: Greeting, frame: bytes) -> Outgoing:
        return Outgoing(greeting.reply_topic, frame, expiry_ms=self._limits.freshness_ms)
