"""Presence: the retained status of a node, which is also its last will.

    {"state": "online", "since": 1767225600000}
    {"state": "online", "since": 1767225600000, "payments": "stopped"}     a broker whose books are wrong

Rule. A time is cut to the minute, and a last will has none: it is written before anyone knows when.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from common.errors import MalformedError
from common.slots import minute_of

MAXIMUM_STATUS = 256

State: TypeAlias = Literal["online", "offline"]


class Presence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether a node is there. `since` is milliseconds since 1970, cut to the minute.

    `payments` is what a broker says that relays, but moves no money.
    """

    state: State
    since: int | None = None
    payments: Literal["stopped"] | None = None


def presence(state: State, now: int | None = None, *, payments_stopped: bool = False) -> bytes:
    """Make a status payload (JSON); without `now` it is a last will's."""
    since = None if now is None else minute_of(now)
    payments: Literal["stopped"] | None = "stopped" if payments_stopped else None
    return msgspec.json.encode(Presence(state=state, since=since, payments=payments))


def read_presence(payload: bytes) -> Presence:
    """Read a status payload. Raises `MalformedError`, also for the empty one that clears a topic."""
    if len(payload) > MAXIMUM_STATUS:
        raise MalformedError("status too long")
    try:
        return msgspec.json.decode(payload, type=Presence)
    except msgspec.MsgspecError as error:
        raise MalformedError("not a status") from error
