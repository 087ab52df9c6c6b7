"""Everything that happens in a `World`, recorded while it happens, so that it can be searched afterwards.

    with recording() as recorder:
        world = World(tmp_path)
        ...                               # visits; recorder.look(world) now and then
        record = recorder.record(world)
    record.broker().search({"title": "Ridge in the morning"})

Recorded are: each publish, the keys of every session (as they are made, ended ones too), each row that a
statement wrote or asked for, what the nodes hold in memory, every sealed question and answer, every log
line. `Record` is data: a test plants a leak in a copy of it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
import structlog
from record import Asked, Record, Side, Statement
from world import World

from broker_node.keys import SymmetricKey
from common import clock, codec, frames, messages, sealing, topics
from common.frames import SessionKeys
from common.logs import log_to_stderr
from common.sealing import XWingPrivateKey
from common.store import Tx
from veilmart.evidence import leaves

OUR_OWN = ("broker_node", "merchant_node", "common")
TABLE = re.compile(r"\b(?:INTO|UPDATE|FROM)\s+(\w+)")
ACCOUNT_CREDENTIALS = (messages.SignUp, messages.LogIn)


@dataclass
class Recorder:
    """What is recorded while a world runs."""

    sessions: dict[bytes, SessionKeys] = field(default_factory=dict)
    sides: dict[bytes, Side] = field(default_factory=dict)
    merchant_keys: dict[str, list[SessionKeys]] = field(default_factory=dict)
    welcomes: dict[bytes, bytes] = field(default_factory=dict)
    statements: list[Statement] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    answered: list[tuple[bytes, bytes]] = field(default_factory=list)
    memory: dict[str, set[bytes]] = field(default_factory=dict)
    hello_keys: dict[bytes, XWingPrivateKey] = field(default_factory=dict)
    relay_keys: dict[bytes, SymmetricKey] = field(default_factory=dict)
    wrap_keys: dict[bytes, SymmetricKey] = field(default_factory=dict)
    prekeys: dict[str, dict[bytes, XWingPrivateKey]] = field(default_factory=dict)
    times: set[int] = field(default_factory=set)
    log: io.StringIO = field(default_factory=io.StringIO)

    def look(self, world: World) -> None:
        """Note what the nodes hold in memory now, keys among it."""
        keys = world.broker.keys
        self.hello_keys.update(keys.hello.by_id)
        self.relay_keys.update(keys.relay.by_id)
        self.wrap_keys.update(keys.wrap.by_id)
        self.memory.setdefault("broker", set()).update(held_in_memory(world.broker.broker))
        for name, node in world.merchants.items():
            prekeys = node.merchant._prekeys
            self.prekeys.setdefault(name, {}).update({**prekeys.browse.by_id, **prekeys.order.by_id})
            self.memory.setdefault(name, set()).update(held_in_memory(node.merchant))

    def record(self, world: World) -> Record:
        """Give everything so far."""
        self.look(world)
        return Record(
            root=world.root,
            market=world.market,
            publishes=tuple(world.bus.passed),
            sessions=dict(self.sessions),
            sides=dict(self.sides),
            merchant_keys={name: list(keys) for name, keys in self.merchant_keys.items()},
            welcomes=dict(self.welcomes),
            hello_keys=dict(self.hello_keys),
            relay_keys=dict(self.relay_keys),
            wrap_keys=dict(self.wrap_keys),
            prekeys={name: dict(keys) for name, keys in self.prekeys.items()},
            statements=tuple(self.statements),
            memory={party: frozenset(values) for party, values in self.memory.items()},
            asked=tuple(self.asked),
            answered=tuple(self.answered),
            times=frozenset(self.times),
            log=self.log.getvalue(),
        )

    # --- taps ------------------------------------------------------------------------------------------

    def tap_welcomes(self, make: Callable[..., tuple[bytes, SessionKeys]]) -> Callable[..., Any]:
        def tapped(
            frame: bytes, hello: messages.Hello, topic: str, answer: messages.HelloAnswer, random: bytes
        ) -> tuple[bytes, SessionKeys]:
            welcome, keys = make(frame, hello, topic, answer, random)
            self.welcomes[welcome] = codec.pack(answer)
            match topics.parse(topic):
                case topics.SessionDown(session_id=sid):
                    self.sessions[sid] = keys
                    account = isinstance(hello.credential, ACCOUNT_CREDENTIALS)
                    self.sides[sid] = "account" if account else "shop"
                case topics.MerchantIn(merchant_id=merchant):
                    self.merchant_keys.setdefault(merchant, []).append(keys)
            return welcome, keys

        return tapped

    def tap_questions(self, seal: Callable[..., Any]) -> Callable[..., Any]:
        def tapped(prekey: Any, binding: Any, body: Any, answer_secret: bytes, step: int) -> Any:
            self.asked.append(Asked(body, answer_secret))
            return seal(prekey, binding, body, answer_secret, step)

        return tapped

    def tap_answers(self, seal: Callable[..., bytes]) -> Callable[..., bytes]:
        def tapped(key: sealing.AnswerKey, body: messages.SealedAnswer, n: bytes, **size: int) -> bytes:
            self.answered.append((key.secret, codec.pack(body)))
            return seal(key, body, n, **size)

        return tapped

    def tap_clock(self, read: Callable[[], int]) -> Callable[[], int]:
        def tapped() -> int:
            now = read()
            self.times.add(now)
            return now

        return tapped

    def tap_statements(
        self, connection: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, many: Any
    ) -> None:
        found = TABLE.search(sql)
        if not parameters or found is None:
            return
        home = Path(connection.engine.url.database).parent
        for row in parameters if many else [parameters]:
            values = tuple(row.values()) if isinstance(row, dict) else tuple(row)
            self.statements.append(Statement(home, found.group(1), values))

    def tap_bulk(self, write: Callable[..., int]) -> Callable[..., int]:
        def tapped(tx: Tx, statement: Any, columns: tuple[str, ...], rows: Sequence[Any]) -> int:
            # The driver has these from the store itself: no event of SQLAlchemy's tells of them.
            prepared = tx._statements.many(statement, columns)
            parameters = [prepared.parameters(row) for row in rows]
            self.tap_statements(tx._connection, None, prepared.sql, parameters, None, many=True)
            return write(tx, statement, columns, rows)

        return tapped


@contextlib.contextmanager
def recording() -> Iterator[Recorder]:
    """Record whatever the nodes of this process do; their logs go into the record, as on their stderr."""
    recorder = Recorder()
    handler = logging.StreamHandler(recorder.log)
    logging.getLogger().addHandler(handler)
    before = sys.stderr, sys.excepthook
    sys.stderr = recorder.log
    log_to_stderr(logging.DEBUG)
    sa.event.listen(sa.Engine, "before_cursor_execute", recorder.tap_statements)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(frames, "make_welcome", recorder.tap_welcomes(frames.make_welcome))
            patch.setattr(sealing, "seal_request", recorder.tap_questions(sealing.seal_request))
            patch.setattr(sealing.AnswerKey, "seal", recorder.tap_answers(sealing.AnswerKey.seal))
            patch.setattr(Tx, "_many", recorder.tap_bulk(Tx._many))
            patch.setattr(clock, "now_ms", recorder.tap_clock(clock.now_ms))
            yield recorder
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", recorder.tap_statements)
        structlog.reset_defaults()
        sys.stderr, sys.excepthook = before
        logging.getLogger().removeHandler(handler)


def held_in_memory(root: object) -> Iterator[bytes]:
    """Give every text and byte string that can be reached from an object of ours."""
    seen: set[int] = set()
    kept: list[object] = []  # what is made on the way must live, or its id could come again
    waiting: deque[object] = deque([root])
    while waiting:
        item = waiting.popleft()
        if isinstance(item, bytes | str):
            yield from leaves(item)
        elif id(item) not in seen and not isinstance(item, type):
            seen.add(id(item))
            kept.append(item)
            waiting.extend(_parts(item))


def _parts(item: Any) -> Iterable[object]:
    if isinstance(item, Mapping):
        return [*item.keys(), *item.values()]
    if isinstance(item, list | tuple | set | frozenset | deque):
        return list(item)
    if isinstance(item, msgspec.Struct):
        return [getattr(item, name) for name in item.__struct_fields__]
    if not type(item).__module__.startswith(OUR_OWN):
        return []
    if is_dataclass(item):
        return [getattr(item, each.name) for each in fields(item)]
    return list(getattr(item, "__dict__", {}).values())
