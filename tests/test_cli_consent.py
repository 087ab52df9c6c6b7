"""Where money moves: a dry run changes nothing, a person is asked, and a pipe neither pays nor waits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cli import Ran, Terminal, veilmart
from cli_reference import commands
from client import dump, fresh
from customer_shop import PRICES, Bazaar, build, home
from test_customer_refunds import deaf

from broker_node import ledger
from common import clock
from common.errors import DeadlineError
from customer_node import Market
from merchant_node import money, schema
from merchant_node.treasury import Treasury

CARD = {"number": "4242 4242 4242 4242", "expiry": "12/34", "security_code": "123", "name": "Alice"}
WHY = ("--reason", "a test")
PAID = ("--card-file", "CARD", "--idempotency-key", "paid")

MOVING: dict[tuple[str, ...], tuple[str, ...]] = {
    ("broker", "account", "credit"): ("customer1", "5.00", *WHY),
    ("broker", "account", "close"): ("customer1", *WHY, "--settle"),
    ("broker", "payout", "confirm"): ("PAYOUT", *WHY),
    ("broker", "payout", "reject"): ("PAYOUT", *WHY),
    ("broker", "dispute", "refund"): ("DISPUTED", *WHY),
    ("broker", "dispute", "settle"): ("DISPUTED", *WHY),
    ("merchant", "payout"): ("0.10", "--to", "DE02"),
    ("merchant", "refund"): ("ORDER", *WHY),
    ("customer", "account", "close"): ("--password-file", "PASSWORD"),
    ("customer", "buy"): ("sports", "ROUTE"),
    ("customer", "order", "cancel"): ("UNHEARD",),
    ("customer", "order", "dispute"): ("ORDER", "--because", "not-delivered"),
    ("customer", "topup"): ("50.00", "--card-file", "CARD"),
    ("customer", "withdraw"): (),
}
"""What moves money at once, and how it is called here. `wallet tend` moves a wallet's own, unasked."""


class Everybody:
    """A market in memory whose parties all have something to lose."""

    def __init__(self, bazaar: Bazaar, profile: Path, names: dict[str, str]) -> None:
        self.world, self.profile, self.names = bazaar.world, profile, names
        self.shop = self.world.root / "merchants" / "sports"

    def ran(self, *words: str, **how: Any) -> Ran:
        homes: dict[str, tuple[str | Path, ...]] = {
            "broker": ("--home", self.world.broker_home),
            "merchant": ("--home", self.shop),
        }
        known = [self.names.get(word, word) for word in words]
        return veilmart(*known, *homes.get(words[0], ("--profile", self.profile)), **how)

    def state(self, whose: str) -> dict[str, Any]:
        """All that broker and merchant have stored, and of a customer's deed what the profile shows."""
        names = ("wallet", "orders", "topups") if whose == "customer" else ()
        shown = {name: self.ran(name, "--json").data for name in names}
        with self.world.merchants["sports"].store.snapshot() as tx:
            wishes = {table.name: tx.all(sa.select(table)) for table in (schema.refunds, schema.payouts)}
            merchant = {name: [dict(row) for row in found] for name, found in wishes.items()}
        return {"broker": dump(self.world), "merchant": merchant, **shown}


@pytest.fixture(scope="module")
def everybody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everybody]:
    folder = tmp_path_factory.mktemp("consent")
    bazaar = build(folder)
    world = bazaar.world
    card, password = folder / "card.json", folder / "password"
    card.write_text(json.dumps(CARD))
    card.chmod(0o600)
    password.write_text("a long enough password\n")
    with bazaar.customer(timeout_s=1.0) as market:
        order, disputed = (market.buy_now("sports", "PLAN").order_id for _ in range(2))
        complete = market.buy_now("maps", "ROUTE").order_id
        market.download(complete, folder / "bought")
        market.dispute(disputed, "not_delivered", "nothing came", reveal=False)
        with deaf(bazaar, market, "/up"), pytest.raises(DeadlineError):
            market.buy_now("sports", "ROUTE")
        unheard = market.last_order().order_id
        world.fund("customer1", 5000)
        market.log_in("customer1", "a long enough password")
        profile = home(market)
    with world.broker.store.immediate() as tx:
        # As if it had been sold and settled long ago.
        ledger.post(tx, fresh(), {"escrow": -98, "pending:sports": 98}, clock.now_ms())
        ledger.post(tx, fresh(), {"pending:sports": -98, "available:sports": 98}, clock.now_ms())
    with world.merchants["sports"].store.immediate() as tx:
        money.ask_soon(tx)
    treasury = Treasury(world.merchants["sports"].store)
    assert world.pump(lambda: treasury.balance().available == 98)
    asked = treasury.ask(50, "DE02", clock.now_ms(), clock.random_bytes)
    assert world.pump(lambda: treasury.payout(asked.payout_id).state == "requested")
    names = {
        "ORDER": order,
        "DISPUTED": disputed,
        "DONE": complete,
        "UNHEARD": unheard,
        "PAYOUT": asked.payout_id.hex(),
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("veilmart.cli.profiles.Market", partial(Market, connect=world.connect))
        yield Everybody(bazaar, profile, names | {"CARD": str(card), "PASSWORD": str(password)})
    world.close()


def test_what_moves_money_can_be_tried_and_done_without_a_question_and_nothing_else() -> None:
    options = {
        path: {name for parameter in command.params for name in parameter.opts}
        for path, command in commands()
    }
    assert {path for path, names in options.items() if "--yes" in names} == {*MOVING}
    tried = {path for path, names in options.items() if "--dry-run" in names}
    assert tried == {*MOVING, ("customer", "wallet", "tend")}


@pytest.mark.parametrize("path", MOVING, ids=" ".join)
def test_a_dry_run_a_pipe_and_a_no_change_nothing(
    path: tuple[str, ...], everybody: Everybody, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everybody.state(path[0])
    shown = everybody.ran(*path, *MOVING[path], "--dry-run", "--json").data
    assert shown["dry_run"] is True
    assert len(shown) > 1

    piped = everybody.ran(*path, *MOVING[path], "--json")
    usage = (2, "usage", "Add --yes if it shall be done.")
    assert (piped.code, piped.error["code"], piped.error["hint"]) == usage

    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    refused = everybody.ran(*path, *MOVING[path])
    assert (refused.code, refused.out) == (130, "")
    assert "[y/N]" in refused.err

    after = everybody.state(path[0])
    # A quote is asked of the merchant, for which a visit is opened: that much trying a purchase does.
    for part in ("orders", "topups", "merchant") if path[-1] == "buy" else before:
        assert after[part] == before[part], part


def test_what_a_dry_run_shows_is_what_happens(everybody: Everybody, monkeypatch: pytest.MonkeyPatch) -> None:
    credit = ("broker", "account", "credit", "customer1", "5.00", *WHY)
    planned = everybody.ran(*credit, "--dry-run", "--json").data
    told = everybody.ran(*credit, "--dry-run", "--yes").out
    assert told == "would credit 5.00 EUR to customer1, who then has 55.00 EUR\n"
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    done = everybody.ran(*credit)
    assert done.out == "credited 5.00 EUR to customer1, who now has 55.00 EUR\n"
    assert done.err == "Credit 5.00 EUR to customer1, who then has 55.00 EUR? [y/N] "
    assert planned == {
        "dry_run": True,
        "name": "customer1",
        "credited": 500,
        "balance": 5500,
        "currency": "EUR",
    }
    planned = everybody.ran("withdraw", "--dry-run", "--json").data
    done_ = everybody.ran("withdraw", "--yes", "--json").data
    same = ("amount", "coins", "tickets", "balance", "currency")
    assert {name: planned[name] for name in same} == {name: done_[name] for name in same}


def test_what_the_deed_would_refuse_a_dry_run_refuses_alike(everybody: Everybody) -> None:
    cases: list[tuple[tuple[str, ...], str]] = [
        (("broker", "account", "credit", "nobody", "1", *WHY), "not_found"),
        (("broker", "account", "close", "customer1", *WHY), "rejected"),
        (("broker", "payout", "confirm", "00" * 16, *WHY), "not_found"),
        (("broker", "dispute", "settle", "ORDER", *WHY), "not_found"),
        (("merchant", "payout", "9.00", "--to", "DE02"), "insufficient_funds"),
        (("merchant", "refund", "ORDER", *WHY, "--amount", "99"), "rejected"),
        (("withdraw", "--bundles", "9"), "insufficient_funds"),
        (("topup", "0", "--card-file", "CARD"), "usage"),
        (("topup", "7.00", *PAID), "idempotency_conflict"),
        (("order", "cancel", "DISPUTED"), "rejected"),
        (("order", "dispute", "DONE", "--because", "not-delivered"), "rejected"),
        (("order", "dispute", "ORDER", "--because", "not-delivered", "--statement", "x" * 1001), "usage"),
        (("buy",), "usage"),
        (("buy", "sports", "GONE"), "out_of_stock"),
        (("buy", "sports", "PLAN", "--quantity", "9"), "insufficient_funds"),
    ]
    assert everybody.ran("topup", "6.00", *PAID, "--yes").code == 0
    inventory = everybody.world.merchants["sports"].inventory
    source = everybody.shop.parent / "gone.md"
    source.write_text("gone")
    inventory.add(source, "GONE", title="Gone", price=1, stock=0)
    for words, code in cases:
        tried = everybody.ran(*words, "--dry-run", "--json").error
        assert tried["code"] == code, words
        if words[0] in ("buy", "order", "topup"):
            done = everybody.ran(*words, "--yes", "--json").error
            assert (tried["message"], tried.get("facts")) == (done["message"], done.get("facts")), words


def test_tending_shows_what_is_due_and_does_none_of_it(everybody: Everybody) -> None:
    before = everybody.state("customer")
    shown = veilmart("wallet", "tend", "--dry-run", "--json", "--profile", everybody.profile).data
    assert shown["dry_run"] is True
    assert everybody.state("customer") == before
    both = veilmart("wallet", "tend", "--dry-run", "--watch", "--json", "--profile", everybody.profile)
    assert (both.code, both.error["code"]) == (2, "usage")


def test_a_real_pipe_does_not_hang(everybody: Everybody) -> None:
    words = ("broker", "account", "credit", "customer1", "5.00", *WHY, "--home", everybody.world.broker_home)
    ended = subprocess.run(
        [sys.executable, "-m", "veilmart", *words, "--json"],
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("VEILMART_")},
    )
    assert (ended.returncode, json.loads(ended.stdout)["error"]["code"]) == (2, "usage")


def test_a_dry_run_of_what_a_key_has_bought_asks_for_no_coins(everybody: Everybody) -> None:
    everything = everybody.ran("wallet", "show", "--json").data["usable"] // PRICES["PLAN"]
    buy = ("buy", "sports", "PLAN", "--quantity", str(everything))
    assert everybody.ran(*buy, "--idempotency-key", "once", "--yes", "--json").data["orders"]
    short = everybody.ran(*buy, "--dry-run", "--json")
    assert short.error["code"] == "insufficient_funds"
    # What was found out stands beside what is in the way.
    assert short.envelope["data"]["quote"]["lines"][0]["quantity"] == everything
    assert everybody.ran(*buy, "--idempotency-key", "once", "--dry-run", "--json").data["dry_run"] is True


def test_whoever_is_not_logged_in_is_told_before_being_asked(everybody: Everybody) -> None:
    assert everybody.ran("logout").code == 0
    top_up = ("topup", "6.00", "--card-file", "CARD")
    for words in (
        top_up,
        (*top_up, "--dry-run"),
        ("withdraw", "--dry-run"),
        ("account", "close", "--dry-run"),
    ):
        assert everybody.ran(*words, "--json").error["code"] == "authentication", words
