"""Sign-up and login: whose password is checked when, and what a failure costs.

    ask      the rules and delays, then a job for the pool         (nothing is known about the password yet)
    settle   the pool has looked: an account, or a failure that counts

Rule 1. Two pools with a worker each. Devices that the account knows have one of their own: strangers, whose
sign-ups and guesses cost nothing, keep each other waiting and nobody else. Among strangers, sign-ups have a
bounded share.

Rule 2. One check at a time for each name and device: guesses that overtake their own counting would be free.

Rule 3. A wrong name, password, or code of a second factor, a disabled account, a closed one that has nothing
to log in with any more: one error, one count, after the same work. Whoever has only the password does not
learn that it is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from broker_node import accounts, delays, devices, invites, totp
from broker_node.accounts import PasswordChecked
from common import messages
from common.config import Limits
from common.core import Arrival, Job
from common.errors import RefusedError
from common.store import Row, Tx

Credential: TypeAlias = messages.LogIn | messages.SignUp
Key: TypeAlias = tuple[str, bytes]
Queue: TypeAlias = Literal["known", "strangers", "sign-ups"]

BUSY_MS: Final = 1_000
POOLS: Final[Mapping[Queue, str]] = {"known": "passwords", "strangers": "strangers", "sign-ups": "strangers"}


class LaterError(RefusedError):
    """Refused, and the next try is taken in `retry_after_ms`."""

    def __init__(self, code: str, retry_after_ms: int) -> None:
        super().__init__(code)
        self.retry_after_ms = retry_after_ms


@dataclass(frozen=True, slots=True)
class _Waiting:
    hello: bytes
    queue: Queue


class Logins:
    """Decides about every `LogIn` and `SignUp`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._most: Mapping[Queue, int] = {
            "known": limits.password_queue,
            "strangers": limits.password_queue,
            "sign-ups": limits.sign_up_queue,
        }
        self._checking: dict[Key, _Waiting] = {}
        """What is in a pool: by name, and by device where the account knows it."""
        self._to_check: dict[Key, _Waiting] = {}

    def begin(self) -> None:
        """Forget what a transaction that was rolled back wanted checked."""
        self._to_check.clear()

    def committed(self) -> None:
        """Note what goes to the pools now."""
        self._checking |= self._to_check
        self._to_check.clear()

    # --- asked -----------------------------------------------------------------------------------------

    def ask(
        self,
        tx: Tx,
        hello: bytes,
        credential: Credential,
        arrive: Callable[[PasswordChecked], list[Arrival]],
        now: int,
    ) -> Job | None:
        """Give the job that checks the password; None where this very `Hello` is being checked already.

        Raises `RefusedError`, and `LaterError` where it is too early or too much is waiting.
        """
        name, password = credential.name, credential.password
        if isinstance(credential, messages.SignUp):
            queue: Queue = "sign-ups"
            key, device = (name, b""), None
            work = lambda: accounts.hash_password(name, password)  # noqa: E731 - one of two
        else:
            account = accounts.find(tx, name)
            device = devices.find(tx, account["id"], credential.device) if account is not None else None
            queue = "strangers" if device is None else "known"
            key = (name, b"" if device is None else device["secret_hash"])
            work = lambda: accounts.check_password(name, password, account)  # noqa: E731
        if self._busy(key, hello, queue):
            return None
        if isinstance(credential, messages.SignUp):
            self._check_sign_up(tx, credential, now)
        else:
            wait = delays.of_name(tx, name, now) if device is None else delays.of_device(device, now)
            if wait:
                raise LaterError("authentication", wait)
        self._to_check[key] = _Waiting(hello, queue)

        def done(checked: PasswordChecked) -> list[Arrival]:
            self._checking.pop(key, None)
            return arrive(checked)

        return Job(POOLS[queue], work, done)

    def _busy(self, key: Key, hello: bytes, queue: Queue) -> bool:
        waiting = self._checking.get(key) or self._to_check.get(key)
        if waiting is not None and waiting.hello == hello:
            # Sent again while it is checked: its answer is on the way.
            return True
        everything = (*self._checking.values(), *self._to_check.values())
        in_queue = sum(each.queue == queue for each in everything)
        if waiting is not None or in_queue >= self._most[queue]:
            raise LaterError("busy", BUSY_MS)
        return False

    def _check_sign_up(self, tx: Tx, credential: messages.SignUp, now: int) -> None:
        if self._limits.sign_up == "closed":
            raise RefusedError("sign_up_closed")
        if self._limits.sign_up == "invite" and not invites.usable(tx, credential.invite, now):
            raise RefusedError("invite")
        accounts.check_policy(credential.name, credential.password)
        if accounts.find(tx, credential.name) is not None:
            raise RefusedError("name_taken")

    # --- settled ---------------------------------------------------------------------------------------

    def settle(self, tx: Tx, credential: Credential, checked: PasswordChecked, now: int) -> tuple[int, int]:
        """Give account and generation for a session that may open, its device known from now on.

        Raises `LaterError` for a failure that was counted, `RefusedError` for one that was not.
        """
        if isinstance(credential, messages.SignUp):
            self._check_sign_up(tx, credential, now)
            if self._limits.sign_up == "invite" and not invites.use(tx, credential.invite, now):
                raise RefusedError("invite")
            account, generation = accounts.create(tx, checked.name, checked.new_hash, now), 1
        else:
            account, generation = self._log_in(tx, credential, checked, now)
        devices.remember(tx, account, credential.device, now, self._limits.devices_per_account)
        return account, generation

    def _log_in(
        self, tx: Tx, credential: messages.LogIn, checked: PasswordChecked, now: int
    ) -> tuple[int, int]:
        row = accounts.find(tx, checked.name)
        device = devices.find(tx, row["id"], credential.device) if row is not None else None
        if not checked.matched:
            raise self._failed(tx, checked.name, device, now)
        if row is None or row["generation"] != checked.generation:
            # Disabled, closed or given another password while the pool looked: no guess, so no failure.
            raise RefusedError("authentication")
        if not totp.use(tx, row["id"], credential.code, now):
            raise self._failed(tx, checked.name, device, now)
        if device is None:
            # What strangers did is over with their delay, not with the owner's next login.
            delays.forget(tx, checked.name)
        return int(row["id"]), int(row["generation"])

    def _failed(self, tx: Tx, name: str, device: Row | None, now: int) -> LaterError:
        if device is None:
            delays.count_stranger(tx, name, now, self._limits)
            return LaterError("authentication", delays.of_name(tx, name, now))
        return LaterError("authentication", delays.count_device(tx, device, now, self._limits))
