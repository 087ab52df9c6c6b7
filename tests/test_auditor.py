"""What the auditor takes for an event of its market, and what not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from auditor_node.watch import ALL_EVENTS, Checkpoint, CloudEvent, Reader, subscriptions, watch
from common import bus, topics
from common.clock import now_ms
from common.errors import UsageError
from common.market_file import MarketFile
from veilmart.init import init_market

TOPIC = topics.audit_event("order.held")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> MarketFile:
    return init_market(tmp_path_factory.mktemp("market"), now_ms=now_ms()).market


@pytest.fixture
def reader(market: MarketFile) -> Reader:
    return Reader(market)


def event(market: MarketFile, number: int = 0, **changes: Any) -> dict[str, Any]:
    made = {
        "specversion": "1.0",
        "id": f"{number:032x}",
        "source": f"urn:veilmart:market:{market.market_id.hex()}",
        "type": "veilmart.order.held",
        "time": "2026-01-01T00:00:00Z",
        "datacontenttype": "application/json",
        "data": {"order": "aa", "merchant": "sports"},
    }
    return {name: value for name, value in (made | changes).items() if value is not None}


def packed(value: object) -> bytes:
    return json.dumps(value).encode()


def test_one_event_and_a_batch(reader: Reader, market: MarketFile) -> None:
    (one,) = reader.read(TOPIC, packed(event(market, 1)))
    assert isinstance(one, CloudEvent)
    assert one.data == {"order": "aa", "merchant": "sports"}
    more = reader.read(TOPIC, packed([event(market, 2), event(market, 3)]))
    assert [each.id[-1] for each in more if isinstance(each, CloudEvent)] == ["2", "3"]
    assert reader.refused == 0


def test_an_event_that_comes_twice_is_one(reader: Reader, market: MarketFile) -> None:
    assert len(reader.read(TOPIC, packed([event(market, 1), event(market, 1)]))) == 1
    assert reader.read(TOPIC, packed(event(market, 1))) == []
    assert reader.refused == 0


def test_ids_are_forgotten_in_their_order(
    reader: Reader, market: MarketFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditor_node.watch.REMEMBERED", 3)
    for number in range(4):
        assert len(reader.read(TOPIC, packed(event(market, number)))) == 1
    assert reader.read(TOPIC, packed(event(market, 3))) == []
    assert len(reader.read(TOPIC, packed(event(market, 0)))) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "urn:veilmart:market:00"},
        {"type": "veilmart.order.captured"},
        {"type": "order.held"},
        {"specversion": "0.3"},
        {"datacontenttype": "text/html"},
        {"data": "text"},
        {"id": ""},
        {"id": "x" * 300},
        {"time": None},
    ],
    ids=str,
)
def test_what_is_no_event_of_this_market_is_counted_and_left_out(
    changes: dict[str, Any], reader: Reader, market: MarketFile
) -> None:
    assert reader.read(TOPIC, packed(event(market, 1, **changes))) == []
    # One wrong event spoils its batch: whoever may write there writes no such thing.
    assert reader.read(TOPIC, packed([event(market, 2), event(market, 3, **changes)])) == []
    assert reader.refused == 2


@pytest.mark.parametrize("payload", [b"", b"{", b"null", b"[1]", b"\xff", packed("text")])
def test_garbage_is_counted(payload: bytes, reader: Reader) -> None:
    assert reader.read(TOPIC, payload) == []
    assert reader.read("veilmart/v1/audit/event/a/b", payload) == []
    assert reader.read(topics.broker_card(), payload) == []
    assert reader.refused == 3


def test_a_checkpoint_is_text(reader: Reader) -> None:
    assert reader.read(topics.audit_checkpoint(), b"market\n1\n") == [Checkpoint("market\n1\n")]
    for payload in (b"", b"\xff", b"x" * 20_000):
        assert reader.read(topics.audit_checkpoint(), payload) == []
    assert reader.refused == 3


def test_what_is_subscribed_to() -> None:
    assert subscriptions([]) == (ALL_EVENTS, topics.audit_checkpoint())
    assert subscriptions(["order.held", "veilmart.order.held"]) == (TOPIC, TOPIC)
    for wrong in ("#", "order/held", "", "+"):
        with pytest.raises(UsageError):
            subscriptions([wrong])


class Replayed:
    """A connection on which these deliveries have arrived."""

    def __init__(self, *payloads: bytes) -> None:
        self.waiting = [bus.Delivery(TOPIC, payload, False, 1, n, 1) for n, payload in enumerate(payloads)]
        self.acknowledged: list[int] = []
        self.life: list[str] = []

    def open(self, timeout_s: float = 5.0) -> None:  # noqa: ARG002 - the protocol's shape
        self.life.append("open")

    def wait(self, timeout_s: float) -> None:
        assert timeout_s <= 0.5

    def take(self, limit: int) -> list[bus.Delivery]:  # noqa: ARG002 - the protocol's shape
        taken, self.waiting = self.waiting[:1], self.waiting[1:]
        return taken

    def acknowledge(self, deliveries: list[bus.Delivery]) -> None:
        self.acknowledged += [each.packet_id for each in deliveries]

    def close(self) -> None:
        self.life.append("close")


def test_watching_acknowledges_and_closes(market: MarketFile) -> None:
    connection = Replayed(packed(event(market, 1)), b"garbage", packed(event(market, 2)))
    ready: list[str] = []
    events = watch(market, connect=lambda *_: connection, on_ready=lambda: ready.append("ready"))
    seen = [next(events), next(events)]
    assert [each.id[-1] for each in seen if isinstance(each, CloudEvent)] == ["1", "2"]
    events.close()
    assert (ready, connection.acknowledged, connection.life) == (["ready"], [0, 1, 2], ["open", "close"])


def test_watching_ends_when_the_time_is_over(market: MarketFile) -> None:
    connection = Replayed()
    assert list(watch(market, timeout_s=0.05, connect=lambda *_: connection)) == []
    assert connection.life == ["open", "close"]


def test_auditors_import_no_other_node() -> None:
    source = Path(__file__).parent.parent / "auditor_node" / "watch.py"
    assert not any(f"{node}_node" in source.read_text() for node in ("broker", "merchant", "customer"))
