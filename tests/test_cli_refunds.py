"""Cancel, refund and dispute as customer, merchant and operator type them, each at an own home."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli import Ran, Terminal, veilmart
from cryptography.hazmat.primitives.serialization import Encoding
from customer_shop import Bazaar, build, home, spoiled
from test_customer_refunds import PRICE, deaf, impatient, money

from common import clock
from common.config import DAY_MS
from common.credentials import PRODUCT_RECORD_LABEL, RECEIPT_LABEL
from common.errors import DeadlineError, UntrustedError
from common.keys import verify_certificate, verify_identity
from customer_node import Market


class Parties:
    """Three homes of one market, and what each of their owners types."""

    def __init__(self, bazaar: Bazaar, profile: Path) -> None:
        self.bazaar = bazaar
        self.profile = profile

    def customer(self, *words: str, **how: Any) -> Ran:
        return veilmart(*words, "--profile", self.profile, **how)

    def merchant(self, *words: str) -> Ran:
        place = self.bazaar.world.root / "merchants" / "sports"
        return veilmart("merchant", *words, "--home", place, "--json")

    def operator(self, *words: str) -> Ran:
        return veilmart("broker", *words, "--home", self.bazaar.world.broker_home, "--json")

    def market(self) -> Any:
        return Market(self.profile, connect=self.bazaar.world.connect)

    def wait(self, seconds: float = 0.5) -> None:
        self.bazaar.world.pump(lambda: False, seconds)


@pytest.fixture
def parties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parties]:
    bazaar = build(tmp_path)
    connecting = functools.partial(Market, connect=bazaar.world.connect)
    monkeypatch.setattr("veilmart.cli.profiles.Market", connecting)
    with impatient(bazaar) as market:
        profile = home(market)
    yield Parties(bazaar, profile)
    bazaar.world.close()


def bought(parties: Parties) -> str:
    with parties.market() as market:
        return str(market.buy_now("sports", "PLAN").order_id)


def test_an_order_that_waits_says_for_whom_and_is_called_off(parties: Parties) -> None:
    with parties.bazaar.again(_closed(parties), timeout_s=2.0) as market:
        with deaf(parties.bazaar, market, "sports/in"), pytest.raises(DeadlineError):
            market.buy_now("sports", "PLAN")
        order_id = market.last_order().order_id
    shown = parties.customer("order", "show", order_id[:8]).out
    assert parties.customer("order", "show", "--last").out == shown
    assert "waits for\tthe merchant, until " in shown
    data = parties.customer("order", "cancel", order_id[:8], "--yes", "--json").data
    assert (data["state"], data["failure"], data["claimed"]) == ("refunded", "cancelled", PRICE)
    again = parties.customer("order", "cancel", order_id, "--yes", "--json").data
    assert (again["state"], again["claimed"]) == (data["state"], data["claimed"])
    assert (
        "given back\t12.34 EUR, 12.34 EUR of it in the wallet"
        in parties.customer("order", "show", order_id).out
    )


def _closed(parties: Parties) -> Any:
    with parties.market() as market:
        return market


def test_a_merchant_gives_a_part_back_and_the_customer_asks(parties: Parties) -> None:
    order_id = bought(parties)
    made = parties.merchant("refund", order_id[:8], "--amount", "2.34", "--reason", "sorry", "--yes").data
    assert (made["state"], made["amount"], made["currency"]) == ("queued", 234, "EUR")
    parties.wait()
    (listed,) = parties.merchant("refunds").data
    assert (listed["state"], listed["given"], listed["reason"]) == ("done", 234, "sorry")
    asked = parties.customer("order", "show", order_id, "--ask", "--json").data
    assert (asked["refunded"], asked["claimed"], asked["state"]) == (234, 234, "accepted")
    assert asked["waits_for"] == "customer"
    assert (
        parties.merchant("refund", order_id, "--amount", "10.01", "--reason", "no", "--yes").error["code"]
        == "rejected"
    )
    assert parties.merchant("refund", "ffff", "--reason", "no").error["code"] == "not_found"
    assert parties.merchant("refund", order_id, "--reason", "").error["code"] == "usage"
    whole = parties.merchant("refund", order_id, "--reason", "all of it", "--yes").data
    assert whole["amount"] is None
    parties.wait()
    resumed = parties.customer("resume", "--json").data
    assert [each["outcome"] for each in resumed] == ["refunded"]
    with parties.market() as market:
        assert money(market) == 4000


def test_a_dispute_asks_before_it_shows_the_product(
    parties: Parties, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_id = bought(parties)
    dispute = ("order", "dispute", order_id, "--because", "not-delivered", "--statement", "nothing came")
    assert parties.customer(*dispute, "--json").error["code"] == "usage"
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    refused = parties.customer(*dispute, terminal=True)
    assert refused.code == 130
    assert "will see what you bought from sports" in refused.err
    assert parties.operator("dispute", "list").data == []
    shown = parties.customer(*dispute, "--yes", "--json").data
    assert (shown["state"], shown["waits_for"]) == ("disputed", "operator")
    parties.wait()
    show = ("order", "show", order_id)
    assert "overdue" not in parties.customer(*show).out
    with monkeypatch.context() as later:
        later.setattr("veilmart.cli.customer_orders.now_ms", lambda: clock.now_ms() + 15 * DAY_MS)
        assert "waits for\tthe operator, until " in (shown_late := parties.customer(*show).out)
        assert " (overdue: the money stays frozen until it is decided)\n" in shown_late

    (waiting,) = parties.merchant("dispute", "list").data
    assert (waiting["order_id"], waiting["kind"], waiting["answer"]) == (order_id, "not_delivered", None)
    answer = ("dispute", "answer", order_id[:8], "--statement", "it was fetched")
    assert parties.merchant(*answer).data["sent"] is False
    assert parties.merchant(*answer).error["code"] == "rejected"
    parties.wait()
    assert parties.merchant("dispute", "list").data[0]["sent"] is True

    (listed,) = parties.operator("dispute", "list").data
    assert (listed["statement"], listed["answer"]) == ("nothing came", "it was fetched")
    assert (listed["left"], listed["overdue"]) == (PRICE, False)
    assert listed["receipt"][0]["sku"] == "PLAN"
    found = parties.operator("dispute", "show", order_id[:8]).data
    assert "agrees" in found["finding"]
    assert parties.operator("dispute", "refund", order_id).code == 2
    decided = parties.operator("dispute", "refund", order_id, "--reason", "it never came", "--yes").data
    assert (decided["state"], decided["reason"]) == ("refunded", "it never came")
    again = parties.operator("dispute", "settle", order_id, "--reason", "or did it", "--yes")
    assert again.error["code"] == "rejected"
    actions = parties.operator("actions", "--about", order_id).data
    assert [each["action"] for each in actions] == ["dispute.refund"]
    parties.wait(1.5)
    assert parties.merchant("dispute", "list").data == []
    assert parties.merchant("dispute", "list", "--all").data[0]["state"] == "refunded"
    parties.customer("resume")
    ended = parties.customer("order", "show", order_id, "--json").data
    assert (ended["state"], ended["decision"]) == ("refunded", "it never came")


def test_the_operator_sees_what_was_promised_and_what_is_claimed(parties: Parties, tmp_path: Path) -> None:
    parties.bazaar.add("sports", "MAP", 500, b"a map", description="Every path,\nwith heights")
    with parties.market() as market:
        order_id = market.buy_now("sports", "MAP").order_id
        with spoiled(parties.bazaar, b"a map", b"a lie"), pytest.raises(UntrustedError):
            market.download(order_id, tmp_path)
    parties.customer("order", "dispute", order_id, "--because", "wrong-content", "--yes")
    parties.wait()

    found = parties.operator("dispute", "show", order_id).data
    (record,) = found["records"]
    assert (record["sku"], record["description"]) == ("MAP", "Every path,\nwith heights")
    assert (record["sha256"], record["in_receipt"]) == (hashlib.sha256(b"a map").hexdigest(), True)
    # Whoever has the market's certificate verifies the bytes by himself.
    signed = found["evidence"]
    info = verify_certificate(
        base64.b64decode(signed["certificate"]),
        parties.bazaar.world.market.ca().public_bytes(Encoding.DER),
        clock.now_ms(),
        "merchant",
    )
    for label, part, packed in (
        (RECEIPT_LABEL, signed, "receipt"),
        (PRODUCT_RECORD_LABEL, signed["records"][0], "record"),
    ):
        content, signature = base64.b64decode(part[packed]), base64.b64decode(part["signature"])
        verify_identity(info.public_key, label, content, signature)
    claimed = hashlib.sha256(b"a lie").hexdigest()
    wrong = [{"sku": "MAP", "keys": False, "sha256": claimed}]
    arrived = {"proven": False, "cells": 1, "expected": 1, "wrong": wrong}
    assert found["arrived"] == arrived
    shown = veilmart("broker", "dispute", "show", order_id, "--home", parties.bazaar.world.broker_home).out
    assert "Every path, with heights" in shown
    assert "the customer claims, unproven\t1 of 1 cells came\n" in shown
    assert f"the customer claims, unproven\tthe content of MAP came with SHA-256 {claimed}\n" in shown

    (told,) = parties.merchant("dispute", "list").data
    assert told["arrived"] == arrived
    place = parties.bazaar.world.root / "merchants" / "sports"
    listed = veilmart("merchant", "dispute", "list", "--home", place).out
    assert "the customer claims, unproven" in listed
    assert claimed in listed


def test_a_dispute_without_evidence_asks_nothing(parties: Parties) -> None:
    order_id = bought(parties)
    words = ("order", "dispute", order_id, "--because", "wrong-content", "--withhold", "--json")
    assert parties.customer(*words).data["state"] == "disputed"
    (listed,) = parties.operator("dispute", "list").data
    assert (listed["kind"], listed["finding"]) == ("wrong_content", "nothing was shown")
    shown = ("receipt", "records", "evidence", "arrived")
    assert [listed[each] for each in shown] == [None] * len(shown)
    decided = parties.operator("dispute", "settle", order_id, "--reason", "no word of why", "--yes").data
    assert decided["state"] == "settled"
    assert parties.customer("order", "show", order_id, "--ask", "--json").data["state"] == "complete"
