"""What a dishonest broker, merchant or bus may say, within which bounds it is believed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from customer_shop import PASSWORD, Bazaar, build, home
from world import MemoryConnection

from common import bus, clock, codec, config, messages
from common.credentials import RECEIPT_LABEL
from common.errors import BrokerUnreachableError, RejectedError, UntrustedError
from customer_node import Market, orders, receipts
from customer_node.hello import Opening


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = build(tmp_path_factory.mktemp("bazaar"))
    yield built
    built.world.close()


def answering(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    """Let the broker, whose frame it is, answer a `Hello` with something else."""
    genuine = Opening._try_open

    def changed(opening: Opening, *sent: Any) -> Any:
        opened = genuine(opening, *sent)
        return None if opened is None else (answer(opened[0]), opened[1])

    monkeypatch.setattr(Opening, "_try_open", changed)


def visits(market: Market) -> list[Any]:
    database = sqlite3.connect(home(market) / "profile.db")
    rows = list(database.execute("SELECT expires, idle_ms FROM visits"))
    database.close()
    return rows


def test_no_session_lasts_for_ever(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch):
    answering(monkeypatch, lambda welcome: msgspec.structs.replace(welcome, expires=2**52, idle_ms=0))
    with bazaar.customer() as market:
        market.show("sports", "PLAN")
        ((expires, idle_ms),) = visits(market)
        assert expires <= clock.now_ms() + config.DAY_MS
        assert 0 < idle_ms <= config.HOUR_MS


def test_a_clock_that_is_days_away_is_not_believed(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch):
    with bazaar.customer() as market:
        answering(
            monkeypatch,
            lambda welcome: msgspec.structs.replace(welcome, clock=welcome.clock - 2 * config.DAY_MS),
        )
        with pytest.raises(UntrustedError, match="clock"):
            market.show("sports", "PLAN")


@pytest.mark.parametrize("code", ["busy", "session_over"])
def test_a_broker_that_lets_us_wait_for_years(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch, code: messages.RefusalCode
):
    with bazaar.customer() as market:
        answering(monkeypatch, lambda _: messages.HelloRefused(code=code, retry_after_ms=2**40))
        with pytest.raises(BrokerUnreachableError):
            market.show("sports", "PLAN")
        with pytest.raises(BrokerUnreachableError):
            market.log_in("someone", PASSWORD)


def test_a_broker_that_refuses_every_ticket_sees_few(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch):
    with bazaar.customer(bundles=2) as market:
        answering(monkeypatch, lambda _: messages.HelloRefused(code="double_spend", retry_after_ms=0))
        assert market.wallet().tickets == 8
        with pytest.raises(RejectedError):
            market.show("sports", "PLAN")
        assert market.wallet().tickets == 4


def test_a_bus_that_never_falls_silent(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch):
    class Chatty(MemoryConnection):
        def wait(self, timeout_s: float) -> None:
            super().wait(min(timeout_s, 0))
            self.arrive("veilmart/v1/broker/status", b"?", retained=False)

    monkeypatch.setattr("customer_node.connection.SETTLE_LONGEST_MS", 200)
    with bazaar.customer(bundles=0) as market:
        pass

    def connect(settings: bus.Settings) -> Any:
        return Chatty(bazaar.world, settings)

    with Market(home(market), connect=connect) as market:
        assert [merchant.id for merchant in market.merchants()] == ["maps", "sports"]


def test_no_card_holds_money_for_longer_than_a_day(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch):
    with bazaar.customer() as market:
        context = market._context
        genuine = type(context).broker
        monkeypatch.setattr(
            type(context),
            "broker",
            lambda *given: msgspec.structs.replace(genuine(*given), order_deadline_ms=2**40),
        )
        order = market.buy_now("sports", "PLAN")
        assert order.deadline <= clock.now_ms() + config.DAY_MS


def test_a_receipt_at_a_time_that_its_certificate_does_not_cover(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch
):
    """Nobody could verify it later, and the merchant would deny it."""
    identity = bazaar.world.merchants["sports"].shop.identity
    with bazaar.customer() as market:
        order = market.buy_now("sports", "PLAN")
        with market._context.profile.store.immediate() as tx:
            loaded = orders.load(tx, bytes.fromhex(order.order_id))
            receipt = receipts.stored(tx, loaded.id)
        checkout = market._resume._checkout

        def opened(at: int) -> Any:
            packed = codec.pack(msgspec.structs.replace(receipt, at=at))
            signature = identity.sign(RECEIPT_LABEL, packed)
            body = messages.OrderAccepted(receipt=packed, signature=signature)
            sealed = loaded.answer_key.seal(body, bytes(32), step=config.ORDER_ANSWER_STEP)
            return checkout._open_acceptance(loaded, sealed)

        assert opened(receipt.at)
        with pytest.raises(UntrustedError, match="does not cover"):
            opened(0)
