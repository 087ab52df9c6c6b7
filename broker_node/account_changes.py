"""What an account session changes about its account: password, second factor, its end.

Rule 1. Each carries the password again, checked in the pool of known devices; an open session alone, such as
one on a stolen machine, changes nothing. Failures count for the account, apart from those of strangers.

Rule 2. What the check rests on (session, generation, state) is looked at again in the one transaction that
changes the account and stores the answer. The same request again in this session gets that answer, also
when the change has ended every session of the account, this one among them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

import sqlalchemy as sa

from broker_node import accounts, delays, devices, schema, totp
from broker_node.sends import Session, ToSession
from broker_node.sessions import Sessions
from common import codec, messages
from common.clock import Random
from common.config import Limits
from common.core import Arrival, Job
from common.errors import RefusedError
from common.store import Row, Tx

Request: TypeAlias = (
    messages.ChangePassword | messages.EnableTotp | messages.DisableTotp | messages.CloseAccount
)
Response: TypeAlias = messages.AccountChanged | messages.Refused

REQUESTS: Final = (
    messages.ChangePassword,
    messages.EnableTotp,
    messages.DisableTotp,
    messages.CloseAccount,
)
_RESPONSE: Final[codec.Codec[Response]] = codec.Codec(Response)


@dataclass(frozen=True, slots=True)
class PasswordShown:
    """What the pool gives back: whether the password was right, and the hash of a new one."""

    request: Request
    matched: bool
    new_hash: str = field(repr=False)


class AccountChanges:
    """Decides about every `Request`."""

    def __init__(self, sessions: Sessions, limits: Limits) -> None:
        self._sessions = sessions
        self._limits = limits
        self._checking: dict[bytes, bytes] = {}
        """Session -> request whose password the pool checks: one at a time."""
        self._to_check: dict[bytes, bytes] = {}

    def begin(self) -> None:
        """Forget what a transaction that was rolled back wanted checked."""
        self._to_check.clear()

    def committed(self) -> None:
        """Note what goes to the pool now."""
        self._checking |= self._to_check
        self._to_check.clear()

    # --- asked -----------------------------------------------------------------------------------------

    def ask(
        self, tx: Tx, session: Session, request: Request, now: int, _random: Random
    ) -> list[ToSession | Job]:
        """Have the pool look at the password. Raises `RefusedError`."""
        if (stored := _stored(tx, session, request)) is not None:
            return [ToSession(session.sid, stored)]
        row = self._account(tx, session)
        checking = self._checking.get(session.sid) or self._to_check.get(session.sid)
        if checking == request.request:
            # Sent again while it is checked: its answer is on the way.
            return []
        if checking is not None or len(self._checking) + len(self._to_check) >= self._limits.password_queue:
            raise RefusedError("busy")
        if delays.of_account(tx, row["id"], now):
            raise RefusedError("authentication")
        new = request.new_password if isinstance(request, messages.ChangePassword) else ""
        if new:
            accounts.check_new_password(row["name"], new)
        self._to_check[session.sid] = request.request

        def work() -> PasswordShown:
            matched = accounts.check_password(row["name"], request.password, row).matched
            return PasswordShown(request, matched, accounts.HASHER.hash(new) if new and matched else "")

        def done(shown: PasswordShown) -> list[Arrival]:
            self._checking.pop(session.sid, None)
            return [Arrival(session, b"", shown)]

        return [Job("passwords", work, done)]

    def _account(self, tx: Tx, session: Session) -> Row:
        account = self._sessions.require_account(tx, session)
        row = tx.one(sa.select(schema.accounts).where(schema.accounts.c.id == account))
        if row is None:
            raise RefusedError("session_over")
        return row

    # --- shown -----------------------------------------------------------------------------------------

    def shown(
        self, tx: Tx, session: Session, result: PasswordShown, now: int, _random: Random
    ) -> list[ToSession]:
        """Change the account, or refuse to; either is stored and repeated. Raises `RefusedError`."""
        request = result.request
        if (stored := _stored(tx, session, request)) is not None:
            return [ToSession(session.sid, stored)]
        account = self._account(tx, session)["id"]
        try:
            self._change(tx, account, result, now)
            answer: Response = messages.AccountChanged(request=request.request)
        except RefusedError as error:
            if error.code == "authentication":
                delays.count_inside(tx, account, now, self._limits)
            answer = messages.Refused(reference=request.request, code=error.code)  # type: ignore[arg-type] # codes of ours
        row = {"sid": session.sid, "request": request.request, "answer": codec.pack(answer)}
        tx.insert(sa.insert(schema.account_answers), row)
        return [ToSession(session.sid, answer)]

    def _change(self, tx: Tx, account: int, result: PasswordShown, now: int) -> None:
        """Do it, or raise before anything is written."""
        request = result.request
        if not result.matched:
            raise RefusedError("authentication")
        match request:
            case messages.EnableTotp():
                totp.enable(tx, account, request.secret, request.code, now)
            case messages.DisableTotp():
                self._take_code(tx, account, request.code, now)
                if not totp.disable(tx, account):
                    raise RefusedError("wrong_state")
            case messages.CloseAccount():
                accounts.check_settled(tx, account)
                self._take_code(tx, account, request.code, now)
                accounts.close(tx, account)
            case messages.ChangePassword():
                self._take_code(tx, account, request.code, now)
                accounts.change_password(tx, account, result.new_hash)
                # Whoever knew the old password may have made a device known with it.
                devices.forget(tx, account)
                devices.remember(tx, account, request.device, now, self._limits.devices_per_account)
        delays.forget(tx, delays.inside(account))

    @staticmethod
    def _take_code(tx: Tx, account: int, code: str, now: int) -> None:
        if not totp.use(tx, account, code, now):
            raise RefusedError("authentication")


def sweep(tx: Tx) -> None:
    """Erase answers whose session is gone."""
    there = sa.select(schema.sessions.c.sid)
    tx.execute(sa.delete(schema.account_answers).where(schema.account_answers.c.sid.not_in(there)))


def _stored(tx: Tx, session: Session, request: Request) -> Response | None:
    row = tx.one(
        sa.select(schema.account_answers.c.answer)
        .where(schema.account_answers.c.sid == session.sid)
        .where(schema.account_answers.c.request == request.request)
    )
    return None if row is None else _RESPONSE.unpack(row["answer"])
