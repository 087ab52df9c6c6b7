"""Every bit and every truncation of each frame type, at the broker: refused, counted, and nothing changes.

`test_frames.py` has the same without a node, `test_replays_merchant.py` and `test_replays_customer.py` at
the other two.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from client import Customer, Session, Shopkeeper, accept, altered, dump, fresh, settle
from structlog.testing import capture_logs
from test_replays import SEALED, play, refused, usage
from world import Publish, World

from common import messages


def feed(world: World, topic: str, payloads: Iterator[bytes]) -> int:
    """Give all of them to the broker, and tell how many there were. The world's record has none of them."""
    count = 0
    lanes = world.running["broker"].lanes.values()
    with capture_logs():
        while batch := list(itertools.islice(payloads, 500)):
            for payload in batch:
                world.bus.deliver(Publish("the bus", topic, payload, retain=False))
            assert world.pump(lambda: not any(lane.inbox for lane in lanes))
            count += len(batch)
    settle(world)
    return count


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("shop", 8),
        ("merchant", 8),
        ("cell", 8),
        ("hello", 1),
        pytest.param("hello", 8, marks=pytest.mark.exhaustive),
    ],
)
def test_every_bit_and_every_truncation_of_each_frame_type(
    world: World, customer: Customer, keeper: Shopkeeper, name: str, bits: int
) -> None:
    """The frame itself comes last, and is taken: so any of the others would have shown.

    A Hello is long, and every one of its bytes costs an HPKE opening: all its bits are the exhaustive set's.
    """
    session = customer.shop()
    order = customer.order(64)
    session.say(order.place)
    forward = keeper.hear(messages.ForwardOrder)
    session.say(messages.FetchCells(request=fresh(), merchant="sports", cells=1, sealed=SEALED))
    asked = keeper.hear(messages.ForwardFetch)
    newcomer = Session(world)
    world.bus.tamper = lambda _: []
    newcomer.put_hello(messages.TicketCredential(ticket=customer.tickets.pop()))
    world.bus.tamper = lambda publish: [publish]
    cell = messages.Cells(reference=asked.reference, token=asked.token, cells=[bytes(100)])
    topic, frame = {
        "shop": (session.up, session.seal(order.asked)),
        "merchant": (keeper.up, keeper.seal(accept(forward))),
        "cell": (keeper.cells, keeper.seal(cell, topic=keeper.cells)),
        "hello": (newcomer.up, newcomer.hello_frame),
    }[name]
    settle(world)
    before, counted = (dump(world), usage(world)), sum(refused(world).values())
    said = len(world.bus.passed)
    fed = feed(world, topic, altered(frame, bits))
    assert sum(refused(world).values()) == counted + fed
    assert fed == (bits + 1) * len(frame)
    assert (dump(world), usage(world)) == before
    assert [p for p in world.bus.passed[said:] if p.topic.endswith(("/down", "/in"))] == []
    assert play(world, Publish("the bus", topic, frame, retain=False))
    assert (dump(world), usage(world)) != before
    assert world.running["broker"].loop.quarantined == 0
