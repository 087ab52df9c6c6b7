"""The command against real processes: Mosquitto, broker and merchant, each started and ended by it."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest
from cli import WHY, Ran, Terminal, veilmart

from broker_node import totp
from common import clock
from mosquitto import free_ports

PATIENCE_S = 30.0


@dataclass
class Process:
    """A command that goes on by itself."""

    home: Path
    words: tuple[str, ...]
    popen: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("VEILMART_")}
        self.popen = subprocess.Popen(
            [sys.executable, "-m", *self.words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=kept | {"VEILMART_HOME": str(self.home)},
        )

    def line(self) -> str:
        """Give the next line of stdout."""
        return _line(self.popen.stdout)

    def error_line(self) -> str:
        """Give the next line of stderr."""
        return _line(self.popen.stderr)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """End it; gives exit code and what was still said."""
        self.popen.send_signal(number)
        out, err = self.popen.communicate(timeout=PATIENCE_S)
        return self.popen.returncode, out, err


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    line = b""
    # Byte by byte: what a buffer held back, no `select` would tell of.
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([stream], [], [], PATIENCE_S)
        assert ready, "nothing was said"
        byte = os.read(stream.fileno(), 1)
        assert byte, "it has ended"
        line += byte
    return line.decode()


@contextmanager
def started(home: Path, *words: str, module: str = "veilmart") -> Iterator[Process]:
    process = Process(home, (module, *words))
    try:
        yield process
    finally:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.communicate()


def make_market(home: Path) -> Path:
    """Make a market with a certified merchant, nothing running."""
    public, nodes = free_ports(2)
    ports = ("--public-port", str(public), "--node-port", str(nodes), "--minimum-age", "0")
    veilmart("init", *ports, home=home)
    veilmart("merchant", "init", "sports", "--name", "Sports", home=home)
    certificate = home / "sports.crt"
    veilmart("ca", "sign", home / "merchants/sports/identity.csr", "--out", certificate, home=home)
    assert veilmart("merchant", "install-cert", certificate, home=home).code == 0
    return home


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A market of which nothing runs."""
    return make_market(tmp_path_factory.mktemp("still") / "market")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Process]]:
    """The processes of a market, ready."""
    home = make_market(tmp_path_factory.mktemp("running") / "market")
    with ExitStack() as stack:
        found: dict[str, Process] = {}
        for name in ("bus", "broker", "merchant"):
            found[name] = stack.enter_context(started(home, name, "run"))
            assert " ready" in found[name].line()
        yield found


@pytest.fixture
def running(nodes: dict[str, Process]) -> Path:
    """The folder of a market that runs."""
    return nodes["bus"].home


def test_each_node_says_one_ready_line_and_stops_cleanly(market: Path) -> None:
    with (
        started(market, "bus", "run") as bus,
        started(market, "broker", "run", "--json") as broker,
        started(market, "merchant", "run") as merchant,
    ):
        assert bus.line().startswith("bus ready: public 127.0.0.1:")
        assert json.loads(broker.line())["data"]["ready"].startswith("broker ready: EUR market ")
        assert merchant.line() == "merchant ready: sports (Sports)\n"
        shown = veilmart("status", "--json", home=market).data
        assert shown["bus"]["public"]["reachable"] is shown["bus"]["nodes"]["reachable"] is True
        assert (shown["broker"]["state"], shown["broker"]["card"]) == ("online", True)
        assert [(each["id"], each["state"]) for each in shown["merchants"]] == [("sports", "online")]
        assert veilmart("doctor", "--json", home=market).data["counts"]["problem"] == 0

        for process, number in ((merchant, signal.SIGTERM), (broker, signal.SIGINT)):
            code, out, err = process.end(number)
            assert (code, out) == (0, "")
            assert all(json.loads(line)["event"] for line in err.splitlines())
        shown = veilmart("status", "--json", home=market).data
        assert shown["broker"]["state"] == "offline"
        assert veilmart("doctor", "--json", home=market).error["code"] == "broker_unreachable"
        assert [(each["id"], each["state"]) for each in shown["merchants"]] == [("sports", "offline")]
        code, out, _ = bus.end()
        assert (code, out) == (0, "")
    assert veilmart("status", "--timeout", "0.2", home=market).code == 6


def test_the_broker_runs_as_a_module_too(market: Path) -> None:
    with started(market, "bus", "run") as bus:
        bus.line()
        with started(market, str(market / "broker"), module="broker_node") as broker:
            assert broker.line().startswith("broker ready: ")
            assert broker.end()[:2] == (0, "")
        # Where there is no broker's home, it says so and ends.
        with started(market, str(market / "ca"), module="broker_node") as broker:
            assert broker.popen.wait(timeout=PATIENCE_S) == 2
            assert "cannot read the market file" in broker.error_line()


def test_a_customer_buys_and_everyone_sees_their_part(running: Path, tmp_path: Path) -> None:  # noqa: PLR0915 - one visit, told from its beginning to its end
    password = tmp_path / "password"
    password.write_text("correct horse battery\n")
    plan = tmp_path / "plan.txt"
    plan.write_text("run, rest, run")

    def ran(*words: str | Path) -> Ran:
        return veilmart(*words, "--json", home=running)

    for sku in ("plan-5k", "plan-10k"):
        ran("merchant", "product", "add", plan, "--sku", sku, "--title", f"Title of {sku}", "--price", "1.25")
    with (
        started(running, "merchant", "orders", "--follow", "--json") as sales,
        started(running, "audit", "watch", "--type", "order.captured", "--count", "1", "--json") as audit,
        started(running, str(running / "market.json"), module="auditor_node") as auditor,
    ):
        assert auditor.error_line() == "watching\n"
        assert sales.error_line() == "waiting for sales\n"
        assert audit.error_line() == "watching\n"
        assert ran("join", running / "market.json", "--no-passphrase").code == 0
        assert ran("signup", "alice", "--password-file", password).data == {"logged_in": True}
        assert ran("withdraw", "--yes").error["code"] == "insufficient_funds"
        ran("broker", "account", "credit", "alice", "50.00", *WHY, "--yes")
        assert ran("balance").data["amount"] == 5000
        assert ran("withdraw", "--bundles", "2", "--yes").data["tickets"] == 8
        ran("logout")
        unknown = ran("balance")
        assert (unknown.code, unknown.error["code"]) == (5, "authentication")

        assert [each["id"] for each in ran("merchants").data] == ["sports"]
        assert [each["sku"] for each in ran("search", "10k").data["products"]] == ["plan-10k"]
        assert ran("show", "sports", "plan-5k").data["price"] == 125
        assert ran("show", "sports", "nothing").error["code"] == "not_found"
        assert ran("cart", "add", "sports", "plan-5k", "--quantity", "3").data["total"] == 375
        assert ran("cart", "set", "sports", "plan-5k", "2").data["total"] == 250
        would = ran("buy", "--dry-run").data
        assert (would["dry_run"], would["quote"]["total"]) == (True, 250)
        assert ran("buy").error["code"] == "usage"
        assert ran("orders").data == []

        bought = ran("buy", "--yes", "--idempotency-key", "tuesday").data
        (order,) = bought["orders"]
        assert (order["state"], order["total"], bought["failures"]) == ("accepted", 250, [])
        assert ran("cart", "show").data["lines"] == []
        assert ran("buy", "--yes", "--idempotency-key", "tuesday").data["orders"] == [order]
        ran("cart", "add", "sports", "plan-10k")
        conflict = ran("buy", "--yes", "--idempotency-key", "tuesday")
        assert (conflict.code, conflict.error["code"]) == (4, "idempotency_conflict")

        # Announced to the merchant, and to the public without product or amount.
        assert json.loads(sales.line())["data"]["order"]["order_id"] == order["order_id"]
        (event,) = [json.loads(audit.line())["data"]]
        assert event["type"] == "veilmart.order.captured"
        assert event["data"] == {"order": order["audit"], "merchant": "sports"}
        assert audit.popen.wait(timeout=PATIENCE_S) == 0
        acted, held = json.loads(auditor.line()), json.loads(auditor.line())
        assert (acted["type"], acted["data"]["action"]) == ("veilmart.operator.acted", "account.credit")
        assert held["type"] == "veilmart.order.held"
        assert sales.end(signal.SIGINT)[0] == 130

    (file,) = ran("download", order["order_id"][:8], "--to", tmp_path / "bought").data["files"]
    assert Path(file["path"]).read_text() == "run, rest, run"
    receipt = tmp_path / "receipt.json"
    assert ran("receipt", "--last", "--out", receipt).data["receipt"]["total"] == 250
    assert veilmart("receipt", "verify", receipt, "--market", running / "market.json").code == 0
    receipt.write_text(receipt.read_text().replace('"total": 250', '"total": 25'))
    forged = ran("receipt", "verify", receipt)
    assert (forged.code, forged.error["code"]) == (1, "untrusted")
    assert ran("resume").data == []
    assert ran("order", "show", order["order_id"]).data["state"] == "complete"
    assert [each["amount"] for each in ran("merchant", "orders").data] == [250]
    assert ran("merchant", "sales").data["total"] == 250
    assert ran("broker", "ledger", "check").data["faults"] == []
    assert_paid_out(ran)


def assert_paid_out(ran: Callable[..., Ran]) -> None:
    """What the merchant earned is settled, asked for, and paid."""
    deadline = time.monotonic() + PATIENCE_S
    while ran("merchant", "balance").data["available"] != 250:
        assert time.monotonic() < deadline
    too_much = ran("merchant", "payout", "2.51", "--to", "DE02 1203", "--yes")
    assert (too_much.code, too_much.error["code"]) == (4, "insufficient_funds")
    asked = ran("merchant", "payout", "2.00", "--to", "DE02 1203", "--yes").data
    assert (asked["state"], asked["amount"]) == ("requested", 200)
    (waiting,) = ran("broker", "payout", "list").data
    assert (waiting["merchant"], waiting["destination"]) == ("sports", "DE02 1203")
    ran("broker", "payout", "confirm", asked["payout_id"], "--reason", "bank reference 17", "--yes")
    assert ran("broker", "payout", "list").data == []
    assert ran("broker", "ledger", "check").data["books"]["payouts"] == 200


def test_an_account_from_its_first_to_its_last_day(running: Path, tmp_path: Path) -> None:
    def ran(*words: str | Path, who: str = "erin") -> Ran:
        return veilmart(*words, "--json", home=running, VEILMART_PROFILE=str(tmp_path / who))

    old, new, secret = (tmp_path / name for name in ("old", "new", "secret"))
    old.write_text("correct horse battery")
    new.write_text("staple of the battery")
    for who in ("erin", "elsewhere"):
        ran("join", running / "market.json", "--no-passphrase", who=who)
    assert ran("signup", "erin", "--password-file", old).code == 0
    assert ran("login", "erin", "--password-file", old, who="elsewhere").code == 0
    assert ran("passwd", "--password-file", old, "--new-password-file", new).code == 0
    assert ran("balance", who="elsewhere").error["code"] == "authentication"

    # Somebody guesses, the owner logs in all the same, and an unknown device has to wait.
    for _ in range(6):
        guess = ran("login", "erin", "--password-file", old, who="elsewhere")
        assert guess.error["code"] == "authentication"
    assert "next try in" in guess.error["hint"]
    assert ran("login", "erin", "--password-file", new).code == 0
    ran("broker", "account", "credit", "erin", "7.77", *WHY, "--yes")

    secret.write_text(ran("totp", "secret").data["secret"])
    key = base64.b32decode(secret.read_text())
    password = ("--password-file", new, "--code")
    code = totp.code_at(key, clock.now_ms() // totp.STEP_MS)
    assert ran("totp", "enable", "--secret-file", secret, *password, code).data == {"totp": True}
    assert ran("login", "erin", *password, code).error["code"] == "authentication", "it was used"
    assert ran("broker", "account", "reset-totp", "erin", *WHY).data == {"name": "erin", "totp": False}

    closed = ran("account", "close", "--password-file", new, "--yes").data
    assert (closed["drawn"]["amount"], closed["drawn"]["balance"]) == (777, 0)
    assert ran("login", "erin", "--password-file", new).data == {"logged_in": True}
    assert "closed for good" in ran("balance").error["message"]
    assert ran("signup", "erin", "--password-file", new).error["code"] == "rejected"
    assert ran("broker", "ledger", "check").data["faults"] == []


def test_a_changed_price_is_shown_and_never_silently_paid(running: Path, tmp_path: Path) -> None:
    file = tmp_path / "route.gpx"
    file.write_text("up and down")

    def ran(*words: str | Path) -> Ran:
        return veilmart(*words, "--json", home=running, VEILMART_PROFILE=str(tmp_path / "bob"))

    password = tmp_path / "password"
    password.write_text("correct horse battery")
    ran("join", running / "market.json", "--no-passphrase")
    ran("signup", "bob", "--password-file", password)
    ran("broker", "account", "credit", "bob", "20", *WHY, "--yes")
    assert ran("withdraw", "--yes").code == 0
    words = ("merchant", "product", "add", file, "--sku", "route", "--title", "Route", "--price", "3.00")
    assert ran(*words, "--stock", "1").code == 0
    assert ran("cart", "add", "sports", "route").code == 0
    ran("merchant", "product", "edit", "route", "--price", "4.00")

    changed = ran("buy", "--yes")
    assert (changed.code, changed.error["code"]) == (4, "price_changed")
    (line,) = changed.envelope["data"]["quote"]["lines"]
    assert (line["previous_price"], line["unit_price"]) == (300, 400)
    assert ran("orders").data == []
    assert ran("buy", "--yes").data["orders"][0]["total"] == 400
    gone = ran("buy", "sports", "route", "--yes")
    assert (gone.code, gone.error["code"]) == (4, "out_of_stock")
    assert ran("buy", "sports", "route", "--yes", "--quantity", "0").code == 2


def test_a_person_is_shown_the_total_and_asked(
    running: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, picture = tmp_path / "photo.jpg", tmp_path / "picture.png"
    photo.write_bytes(b"a photo")
    picture.write_bytes(b"\x89PNG\r\n\x1a\n a small picture")

    def ran(*words: str | Path, answer: str = "") -> Ran:
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        profile = {"VEILMART_PROFILE": str(tmp_path / "carol"), "NO_COLOR": "1", "COLUMNS": "120"}
        return veilmart(*words, home=running, terminal=True, **profile)

    password = tmp_path / "password"
    password.write_text("correct horse battery")
    ran("join", running / "market.json", "--no-passphrase")
    ran("signup", "carol", "--password-file", password)
    ran("broker", "account", "credit", "carol", "20", *WHY, "--yes")
    ran("withdraw", "--yes")
    words = ("merchant", "product", "add", photo, "--sku", "photo", "--title", "Photo", "--price", "2.00")
    assert ran(*words, "--image", picture, "--image-alt", "A lake").code == 0
    out = tmp_path / "out.png"
    assert "A lake" in ran("image", "sports", "photo", "--out", out).out
    assert out.read_bytes() == picture.read_bytes()

    ran("cart", "add", "sports", "photo")
    refused = ran("buy", answer="n\n")
    assert refused.code == 130
    assert "Buy for 2.00 EUR? [y/N]" in refused.err
    assert json.loads(ran("orders", "--json").out)["data"] == []
    bought = ran("buy", answer="y\n")
    assert (bought.code, ": accepted, 2.00 EUR" in bought.out) == (0, True)
    once_more = ran("buy", "sports", "photo", "--quantity", "2", answer="y\n")
    assert "Buy 2 x Photo of sports for 4.00 EUR? [y/N]" in once_more.err
    assert once_more.code == 0
    assert ran("download", "--last", "--to", tmp_path / "bought").code == 0
    assert (tmp_path / "bought" / "photo.jpg").read_bytes() == b"a photo"
    for words in (("orders",), ("order", "show", "--help"), ("wallet",), ("merchants",), ("search",)):
        assert ran(*words).code == 0


def test_a_wallet_that_looks_after_itself(nodes: dict[str, Process], running: Path, tmp_path: Path) -> None:
    assert nodes
    password = tmp_path / "password"
    password.write_text("correct horse battery")
    profile = str(tmp_path / "frank")

    def ran(*words: str | Path) -> Ran:
        return veilmart(*words, "--json", home=running, VEILMART_PROFILE=profile)

    veilmart("join", running / "market.json", "--no-passphrase", home=running, VEILMART_PROFILE=profile)
    assert ran("signup", "frank", "--password-file", password).code == 0
    veilmart("broker", "account", "credit", "frank", "50", *WHY, "--yes", home=running)
    assert [due["work"] for due in ran("wallet", "show").data["due"]] == ["draw"]
    tended = ran("wallet", "tend").data
    assert [(each["work"], each["outcome"]) for each in tended["done"]] == [("draw", "done")]
    ran("logout")
    # Eight tickets are kept: half of them came with the bundle, the others need the account again.
    (due,) = ran("wallet", "tend").data["due"]
    assert due["work"] == "draw"
    words = ("wallet", "tend", "--watch", "--account", "frank", "--password-file", str(password))
    with started(running, *words, "--profile", profile) as watching:
        assert watching.line() == "draw from the account: done\n"
        # Between its times the profile is free for other commands.
        deadline = time.monotonic() + PATIENCE_S
        while (held := ran("wallet", "show")).code != 0:
            assert time.monotonic() < deadline
        code, _, _ = watching.end(signal.SIGINT)
    assert code == 0
    assert (held.data["tickets"], held.data["due"], held.data["logged_in"]) == (8, [], False)
    assert held.data["exact_up_to"] == held.data["usable"] == 2000
    wrong = ran("wallet", "tend", "--watch", "--now")
    assert (wrong.code, wrong.error["code"]) == (2, "usage")


def test_whoever_is_away_is_named(nodes: dict[str, Process], running: Path, tmp_path: Path) -> None:
    """After every other test that needs them: it ends the nodes one by one."""
    profile = {"VEILMART_PROFILE": str(tmp_path / "dan")}
    password = tmp_path / "password"
    password.write_text("correct horse battery")

    def ran(*words: str | Path) -> Ran:
        return veilmart(*words, "--timeout", "3", "--json", home=running, **profile)

    veilmart("join", running / "market.json", "--no-passphrase", home=running, **profile)
    ran("signup", "dan", "--password-file", password)
    veilmart("broker", "account", "credit", "dan", "20", *WHY, "--yes", home=running)
    assert ran("withdraw", "--yes").code == 0
    nodes["merchant"].end()
    away = ran("search", "--merchant", "sports")
    assert (away.code, away.error["code"], away.error["retryable"]) == (6, "merchant_offline", True)
    nodes["broker"].end()
    away = ran("balance")
    assert (away.code, away.error["code"]) == (6, "broker_unreachable")
    nodes["bus"].end()
    away = ran("balance")
    assert (away.code, away.error["code"]) == (6, "bus_unreachable")


def test_watching_ends_by_time(market: Path) -> None:
    with started(market, "bus", "run") as bus:
        bus.line()
        begun = time.monotonic()
        ended = veilmart("audit", "watch", "--timeout", "0.3", home=market)
        assert (ended.code, ended.out) == (0, "")
        assert time.monotonic() - begun < PATIENCE_S
        late = veilmart("audit", "watch", "--timeout", "0.3", "--count", "1", "--json", home=market)
        assert (late.code, late.error["code"], late.error["hop"]) == (27, "timeout", "broker")
        wrong = veilmart("audit", "watch", "--type", "order/#", "--json", home=market)
        assert (wrong.code, wrong.error["code"]) == (2, "usage")
