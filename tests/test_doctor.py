"""`veilmart doctor`: on a real Mosquitto, on homes that were spoilt in one place each, and on nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli import Ran, tree, veilmart
from msgspec.structs import replace

from common import cards, clock, keys, messages, topics
from common.config import DAY_MS, HOUR_MS, MINUTE_MS
from common.market_file import Address, MarketFile
from common.messages import SlotKey
from common.presence import presence
from common.sealing import XWingPrivateKey
from common.slots import month_of, month_start, next_month, slot_start
from customer_node import Market as Shopper
from mosquitto import Market, free_ports, make_market
from veilmart import ca
from veilmart.doctor import disk, versions
from veilmart.doctor.clocks import broker_card
from veilmart.doctor.coin_keys import months
from veilmart.doctor.findings import GROUPS, Check, Finding
from veilmart.doctor.places import Home
from veilmart.doctor.running import running


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """A market with the merchant `sports` and a customer; Mosquitto runs, no node does."""
    with make_market(tmp_path_factory.mktemp("doctor")) as made:
        home, certificate = made.root / "market", made.root / "sports.crt"
        assert veilmart("merchant", "init", "sports", "--name", "Sports", home=home).code == 0
        request = home / "merchants/sports/identity.csr"
        assert veilmart("ca", "sign", request, "--out", certificate, home=home).code == 0
        assert veilmart("merchant", "install-cert", certificate, home=home).code == 0
        assert veilmart("join", home / "market.json", "--no-passphrase", home=home).code == 0
        yield made


@pytest.fixture
def home(market: Market, tmp_path: Path) -> Path:
    """A copy of its homes, for one test to spoil."""
    return Path(shutil.copytree(market.root / "market", tmp_path / "market"))


def examined(home: Path, *words: str | Path, **environment: str) -> tuple[dict[str, dict[str, Any]], Ran]:
    """Every check by its name, and the command's end."""
    ran = veilmart("doctor", "--timeout", "5", *words, "--json", home=home, **environment)
    found = ran.envelope["data"]["checks"]
    by_name = {each["check"]: each for each in found}
    assert {each["group"] for each in found} <= set(GROUPS)
    return by_name, ran


def card_of(home: Path, issued: int) -> bytes:
    """A broker's card that its real key has signed."""
    market = MarketFile.load(home / "market.json")
    hello = SlotKey(slot=slot_start(issued, DAY_MS), public=XWingPrivateKey.generate().public.raw)
    body = messages.BrokerCard(
        market=market.market_id,
        issued=issued,
        not_after=hello.slot + DAY_MS + HOUR_MS,
        currency="EUR",
        hello_keys=[hello],
        issuer_keys=[],
        log_key=bytes(32),
        order_deadline_ms=DAY_MS,
        commission_basis_points=0,
        totals_at=0,
        totals=[],
    )
    identity = keys.IdentityKey.load(home / "broker/identity.key")
    certificate = ca.load_ca_certificate(home / "broker/identity.crt")
    return cards.make_card(
        identity, certificate.public_bytes(keys.serialization.Encoding.DER), "broker", body
    )


# --- Everything ----------------------------------------------------------------------------------------


def test_an_empty_folder_is_no_problem_and_gets_a_first_step(tmp_path: Path) -> None:
    found, ran = examined(tmp_path / "nothing", VEILMART_PROFILE=str(tmp_path / "nobody"))
    assert ran.code == 0
    assert found["homes"]["result"] == "warning"
    assert "veilmart join" in found["homes"]["advice"]
    assert "veilmart init" in found["homes"]["advice"]
    assert found["bus"]["result"] == found["keys"]["result"] == "not_applicable"
    assert list(tmp_path.iterdir()) == []


WINDOW = 8


def test_a_bus_without_a_broker_is_told_step_by_step_and_nothing_is_changed(market: Market) -> None:
    home = market.root / "market"
    before = tree(home)
    found, ran = examined(home)
    assert tree(home) == before
    assert (ran.code, ran.error["code"]) == (6, "broker_unreachable")
    assert found["public listener"]["result"] == found["TLS, public listener"]["result"] == "ok"
    assert found["TLS, nodes' listener, broker"]["result"] == "ok"
    assert found["TLS, nodes' listener, merchant sports"]["result"] == "ok"
    assert found["MQTT"]["result"] == "ok"
    assert found["broker"]["result"] == "problem"
    assert "broker run" in found["broker"]["advice"]
    assert {name for name, each in found.items() if each["result"] == "problem"} == {
        "broker",
        "merchant sports",
    }
    for name in ("ca", "bus", "broker", "merchant sports"):
        assert found[f"certificate, {name}"]["result"] == "ok", name
    assert found["store, customer"]["result"] == "ok"
    assert found["wallet, customer"]["result"] == "warning"
    assert found["browse keys, merchant sports"]["advice"] == "`veilmart merchant run` makes it."
    assert found["files, customer"]["detail"].startswith("2 secret files")
    for secret in ("broker/identity.key", "merchants/sports/identity.key", "customer/seed"):
        # A newline is as likely in random bytes as any other: what is short stands in the output by chance.
        lines = [line for line in (home / secret).read_bytes().splitlines() if len(line) >= WINDOW]
        assert lines, secret
        assert all(repr(line)[2:-1] not in ran.out for line in lines if b"PRIVATE" not in line)


def test_a_person_reads_a_table_and_the_first_problem(market: Market) -> None:
    ran = veilmart("doctor", home=market.root / "market")
    assert ran.code == 6
    assert ran.out.splitlines()[0] == "check\tresult\tdetail\twhat to do"
    assert "bus: broker\tPROBLEM\tis not online\tStart it with `veilmart broker run`." in ran.out
    assert ran.err.startswith("error: broker: is not online\nhint: ")


def test_a_broker_that_is_there_is_ok_and_its_card_is_looked_at(market: Market) -> None:
    home, now = market.root / "market", clock.now_ms()
    with market.broker() as broker:
        broker.publish(topics.broker_status(), presence("online", now), retain=True)
        broker.publish(topics.broker_card(), card_of(home, now), retain=True)
        try:
            found, ran = examined(home, "--home", home / "broker")
            assert found["broker"]["result"] == "ok"
            assert found["against the broker's card"]["result"] == "ok"
            assert found["coin keys, announced"]["result"] == "problem", "the card shows none"
            assert (ran.code, ran.error["code"]) == (1, "error")
        finally:
            for topic in (topics.broker_status(), topics.broker_card()):
                broker.publish(topic, b"", retain=True)


def test_stopped_payments_are_a_problem(market: Market) -> None:
    status = presence("online", clock.now_ms(), payments_stopped=True)
    with market.broker() as broker:
        broker.publish(topics.broker_status(), status, retain=True)
        try:
            found, ran = examined(market.root / "market")
            assert found["broker"]["code"] == "ledger_broken"
            assert ran.code == 1
        finally:
            broker.publish(topics.broker_status(), b"", retain=True)


# --- Bus and TLS ---------------------------------------------------------------------------------------


def test_no_bus_is_6(home: Path) -> None:
    (port,) = free_ports(1)
    market = MarketFile.load(home / "market.json")
    moved = replace(market, public=Address(host="localhost", port=port))
    for path in home.rglob("market.json"):
        moved.save(path)
    found, ran = examined(home)
    assert (ran.code, ran.error["code"]) == (6, "bus_unreachable")
    assert found["public listener"]["detail"].startswith(f"no answer at localhost:{port}")
    assert "veilmart bus run" in found["public listener"]["advice"]
    assert "TLS, public listener" not in found


def test_a_bus_under_another_name_is_not_trusted(home: Path) -> None:
    for path in home.rglob("market.json"):
        market = MarketFile.load(path)
        # The same address, as a name that no certificate has.
        replace(market, public=Address(host="127.1", port=market.public.port)).save(path)
    found, ran = examined(home)
    assert "Hostname mismatch" in found["TLS, public listener"]["detail"]
    assert (found["MQTT"]["result"], found["TLS, public listener"]["code"]) == ("not_applicable", "untrusted")
    assert (ran.code, ran.error["code"]) == (1, "untrusted")


def test_market_files_of_two_addresses_are_told_apart(home: Path) -> None:
    (port,) = free_ports(1)
    market = MarketFile.load(home / "market.json")
    replace(market, public=Address(host="localhost", port=port)).save(home / "old.json")
    found, _ = examined(home, "--market", home / "old.json")
    assert found[f"public listener, market at localhost:{port}"]["code"] == "bus_unreachable"
    assert found[f"public listener, market at localhost:{market.public.port}"]["result"] == "ok"


def test_a_bus_of_another_market_is_not_trusted(home: Path, tmp_path: Path) -> None:
    ca.create_ca(tmp_path / "other", now_ms=clock.now_ms())
    for path in home.rglob("market.json"):
        market = MarketFile.load(path)
        replace(market, ca_certificate=(tmp_path / "other/ca.crt").read_text()).save(path)
    found, ran = examined(home)
    assert found["TLS, public listener"]["code"] == "untrusted"
    assert "does not hold" in found["TLS, public listener"]["detail"]
    assert ran.code == 1


def test_a_proxy_leaves_the_listeners_to_it(market: Market) -> None:
    (port,) = free_ports(1)
    found, ran = examined(market.root / "market", "--proxy", f"socks5://127.0.0.1:{port}", "--timeout", "0.3")
    assert found["public listener"]["result"] == found["nodes' listener"]["result"] == "not_applicable"
    assert "through the proxy" in found["MQTT"]["detail"]
    assert ran.code == 6


# --- The clock -----------------------------------------------------------------------------------------

NOON = slot_start(clock.now_ms(), DAY_MS) + 36 * HOUR_MS
"""Tomorrow's: the market's certificates begin today, when the test does."""


@pytest.mark.parametrize(
    ("now", "state", "result"),
    [
        (NOON, "online", "ok"),
        (NOON - 4 * MINUTE_MS, "online", "ok"),
        (NOON - 6 * MINUTE_MS, "online", "problem"),
        (NOON + 12 * HOUR_MS, "online", "ok"),
        (NOON + 13 * HOUR_MS, "online", "problem"),
        (NOON + 13 * HOUR_MS, "offline", "warning"),
    ],
)
def test_the_clock_is_compared_with_what_the_broker_signed(
    now: int, state: Any, result: str, market: Market
) -> None:
    home = market.root / "market"
    board = {topics.broker_card(): card_of(home, NOON), topics.broker_status(): presence(state)}
    assert broker_card(market.file, board, now).result == result


def test_a_card_that_does_not_hold_tells_no_time(market: Market) -> None:
    card = bytearray(card_of(market.root / "market", NOON))
    card[-1] ^= 1
    found = broker_card(market.file, {topics.broker_card(): bytes(card)}, NOON)
    assert (found.result, found.error.code if found.error else "") == ("problem", "untrusted")
    assert broker_card(market.file, {}, NOON).result == "not_applicable"


@pytest.mark.parametrize(("offset", "result"), [(-2_000, "ok"), (6 * MINUTE_MS, "problem")])
def test_the_last_session_tells_the_difference(home: Path, offset: int, result: str) -> None:
    row = ("here", b"a", b"s", b"k", offset, 0, 0, 1)
    with sqlite3.connect(home / "customer/profile.db") as connection:
        connection.execute("INSERT INTO account_sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.close()
    found, _ = examined(home)
    assert found["customer's last session"]["result"] == result


# --- Settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "check"),
    [
        ("broker/limits.toml", "ordr_deadline_ms = 1", "limits.toml, broker"),
        ("merchants/sports/limits.toml", "cell_window = 'many'", "limits.toml, merchant sports"),
        ("merchants/sports/merchant.toml", "nmae = 'Sports'", "merchant.toml, merchant sports"),
        ("broker/gateway.toml", "kind = 'cash'", "gateway.toml, broker"),
        ("bus/mosquitto.conf", "listener nowhere", "mosquitto.conf, bus"),
        ("merchants/sports/market.json", "{}", ""),
    ],
)
def test_a_wrong_file_is_named(home: Path, file: str, content: str, check: str) -> None:
    (home / file).write_text(content)
    found, ran = examined(home)
    check = check or f"market file {home / file}"
    assert found[check]["result"] == "problem", found[check]
    assert Path(file).name in found[check]["detail"]
    assert found[check]["advice"]
    assert ran.code in {1, 2}


def test_a_wrong_variable_is_named_and_an_unknown_one_pointed_out(market: Market, tmp_path: Path) -> None:
    found, ran = examined(market.root / "market", VEILMART_MERCHANT="../x", VEILMART_HOEM="x")
    assert "VEILMART_MERCHANT" in found["variables"]["detail"]
    assert found["unknown variables"]["detail"] == "VEILMART_HOEM"
    assert (ran.code, ran.error["code"]) == (2, "usage")


# --- Keys ----------------------------------------------------------------------------------------------


def test_a_key_that_others_can_read_is_named_with_the_remedy(home: Path) -> None:
    path, token = home / "merchants/sports/identity.key", home / "merchants/sports/api-token"
    token.touch(0o644)
    found, _ = examined(home)
    assert str(token) in found["files, merchant sports"]["detail"]
    token.unlink()
    path.chmod(0o640)
    found, ran = examined(home)
    told = found["files, merchant sports"]
    assert told["detail"] == f"others can read {path}"
    assert told["advice"].startswith(f"chmod 600 {path}")
    assert all(path.read_text().splitlines()[1] not in text for text in (ran.out, ran.err))
    path.chmod(0o600)
    token = path.with_name("api-token")
    token.write_text("whoever has it can do all that the pages do\n")
    token.chmod(0o644)
    found, _ = examined(home)
    assert found["files, merchant sports"]["detail"] == f"others can read {token}"


def test_a_certificate_near_its_end_warns_and_one_that_ended_is_a_problem(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = clock.now_ms()
    monkeypatch.setattr(clock, "now_ms", lambda: real + 350 * DAY_MS)
    found, _ = examined(home)
    assert found["certificate, broker"]["result"] == "warning"
    assert "veilmart ca renew broker" in found["certificate, broker"]["advice"]
    monkeypatch.setattr(clock, "now_ms", lambda: real + 366 * DAY_MS)
    found, _ = examined(home)
    assert found["certificate, broker"]["code"] == "authentication"
    assert "merchant install-cert" in found["certificate, merchant sports"]["advice"]


def test_a_key_that_was_not_certified_and_a_missing_certificate_are_problems(home: Path) -> None:
    (home / "broker/identity.key").unlink()
    keys.IdentityKey.generate().save(home / "broker/identity.key")
    (home / "merchants/sports/identity.crt").unlink()
    found, _ = examined(home)
    assert found["certificate, broker"]["code"] == "untrusted"
    assert "identity.crt" in found["certificate, merchant sports"]["detail"]


def test_a_revoked_merchant_reads_it(home: Path) -> None:
    crl = ca.revoke(home / "ca", "sports", now_ms=clock.now_ms())
    shutil.copy(crl, home / "merchants/sports/crl.pem")
    found, _ = examined(home)
    assert "revoked" in found["certificate, merchant sports"]["detail"]


def test_slot_keys_that_are_over_are_pointed_out(home: Path) -> None:
    folder, now = home / "broker/hello", clock.now_ms()
    folder.mkdir(exist_ok=True)
    for slot in (slot_start(now, DAY_MS), slot_start(now, DAY_MS) - 3 * DAY_MS):
        (folder / f"{slot}.key").touch(mode=0o600)
    found, _ = examined(home)
    told = found["hello keys, broker"]
    assert (told["result"], told["detail"][:2]) == ("warning", "1 ")
    assert "broker run" in told["advice"]


def test_coin_keys_without_their_files_are_a_problem(home: Path) -> None:
    with sqlite3.connect(home / "broker/broker.db") as connection:
        connection.execute("CREATE TABLE issuer_keys (key_id BLOB, month TEXT)")
        connection.execute("INSERT INTO issuer_keys VALUES (?, ?)", (b"12345678", month_of(clock.now_ms())))
    connection.close()
    (home / "broker/broker.db").chmod(0o600)
    found, _ = examined(home)
    assert found["coin keys, broker"]["result"] == "problem"
    (home / "broker/mint").mkdir(exist_ok=True)
    (home / "broker/mint" / f"{b'12345678'.hex()}.pem").touch(mode=0o600)
    found, _ = examined(home)
    assert found["coin keys, broker"]["result"] != "problem"


@pytest.mark.parametrize(
    ("before_the_next", "with_next", "result"),
    [(10 * DAY_MS, False, "ok"), (DAY_MS, False, "warning"), (DAY_MS, True, "ok"), (1, False, "warning")],
)
def test_the_next_months_keys_are_due_a_day_ahead(before_the_next: int, with_next: bool, result: str) -> None:  # noqa: FBT001
    following = next_month(month_of(clock.now_ms()))
    now = month_start(following) - before_the_next
    present = {month_of(now)} | ({following} if with_next else set())
    assert months(Check("keys", "x"), present, now).result == result
    assert months(Check("keys", "x"), {following}, now).result == "problem"


def test_a_wallet_says_what_opens_it_and_who_uses_it(home: Path) -> None:
    profile = home / "customer"
    with Shopper(profile):
        found, _ = examined(home)
        assert found["wallet, customer"]["detail"].endswith("in use by a process")
        assert running(Home("customer", "customer", profile)) == "running"
    assert running(Home("customer", "customer", profile)) == "not running"
    key = home / "key"
    assert veilmart("wallet", "passphrase", "--new-key-file", key, home=home).code == 0
    found, ran = examined(home)
    assert found["wallet, customer"]["detail"] == "opens with its key file"
    (profile / "seed").write_bytes(b"nonsense")
    found, ran = examined(home)
    assert found["wallet, customer"]["code"] == "untrusted"
    assert "nonsense" not in ran.out


# --- Disk and versions ---------------------------------------------------------------------------------


def test_a_damaged_store_is_found(home: Path) -> None:
    path = home / "customer/profile.db"
    raw = bytearray(path.read_bytes())
    raw[4096:] = b"\xff" * (len(raw) - 4096)
    path.write_bytes(raw)
    found, ran = examined(home)
    assert found["store, customer"]["result"] == "problem"
    assert "profile.db is damaged" in found["store, customer"]["detail"]
    assert ran.code in {1, 6}


def test_what_a_crash_left_in_the_wal_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA journal_mode=WAL'); c.execute('CREATE TABLE t (a)'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, path], check=False, timeout=30)
    kept = {each.name: each.read_bytes() for each in tmp_path.glob("broker.db*") if "shm" not in each.name}
    assert len(kept) == 2
    assert disk.quick_check(path, 5.0) == ["ok"]
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept


def test_looking_through_a_store_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "broker.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (a PRIMARY KEY)")
        connection.executemany("INSERT INTO t VALUES (?)", ((number,) for number in range(1000)))
    connection.close()
    monkeypatch.setattr(disk, "STEPS", 1)
    monkeypatch.setattr(time, "monotonic", iter(range(10**6)).__next__)
    found = disk.check_store(Check("disk", "store"), path, 0.5)
    assert (found.result, found.advice) == ("warning", "Give more with --timeout.")


@pytest.mark.parametrize(
    ("free", "result"), [(disk.TOO_LITTLE - 1, "problem"), (disk.LITTLE - 1, "warning"), (disk.LITTLE, "ok")]
)
def test_little_room_is_told(free: int, result: str) -> None:
    assert disk.room(Check("disk", "room"), Path("/x"), free).result == result


def test_libraries_are_held_against_what_the_package_asks_for() -> None:
    def wrong(*requirements: str) -> list[Finding]:
        return [each for each in versions.check_libraries([*requirements]) if each.result == "problem"]

    assert wrong("paho-mqtt>=2.1", "cryptography<51,>=50", 'stripe<17,>=16; extra == "stripe"') == []
    assert "paho-mqtt is " in wrong("paho-mqtt>=99")[0].detail
    assert "cryptography is " in wrong("cryptography<3")[0].detail
    assert "no-such-thing is missing" in wrong("no-such-thing>=1")[0].detail


def test_mosquitto_is_missed_only_where_the_bus_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert versions.check_mosquitto(bus_here=True).result == "ok"
    monkeypatch.setattr(shutil, "which", lambda *_args, **_more: None)
    assert versions.check_mosquitto(bus_here=False).result == "not_applicable"
    told = versions.check_mosquitto(bus_here=True)
    assert (told.result, "apt-get install" in told.advice) == ("problem", True)


def test_an_old_mosquitto_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "mosquitto"
    fake.write_text("#!/bin/sh\necho 'mosquitto version 1.6.9'\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = versions.check_mosquitto(bus_here=True)
    assert (found.result, found.detail) == ("problem", "1.6.9 (2.0 or newer)")
    assert versions.numbers("2.1rc3") == (2, 1)
