"""Presence: the retained status of a node, which is also its last will.

    {"state": "online", "since": 1767225600000}

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
    """Whether a node is there. `since` is milliseconds since 1970, cut to the minute."""

    state: State
    since: int | None = None


def presence(state: State, now: int | None = None) -> bytes:
    """Make a status payload (JSON); without `now` it is a last will's."""
    return msgspec.json.encode(Presence(state=state, since=None if now is None else minute_of(now)))


def read_presence(payload: bytes) -> Presence:
    """Read a status payload. Raises `MalformedError`, also for the empty one that clears a topic."""
    if len(payload) > MAXIMUM_STATUS:
        raise MalformedError("status too long")
    try:
        return msgspec.json.decode(payload, type=Presence)
    except msgspec.MsgspecError as error:
        raise MalformedError("not a status") from error
