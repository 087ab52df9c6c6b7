"""`init`, `status`, `ca`, `broker account` and `merchant`, each from a home of its own. Nothing runs here."""

from __future__ import annotations

import getpass
import io
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cli import WHY, Ran, Terminal, tree, veilmart

from broker_node import run, schema
from common import clock
from customer_node import Market
from mosquitto import free_ports
from veilmart.cli.passwords import read_password

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A market, made once: coin keys take seconds."""
    home = tmp_path_factory.mktemp("made") / "market"
    public, nodes = free_ports(2)
    ran = veilmart("init", "--public-port", str(public), "--node-port", str(nodes), "--json", home=home)
    assert ran.data["created"]
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy of it, for one test."""
    return Path(shutil.copytree(made, tmp_path / "market"))


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n")
    return path


# --- init and status -----------------------------------------------------------------------------------


def test_init_again_changes_nothing(home: Path) -> None:
    before = tree(home)
    assert "broker/broker.db" in before
    assert any(name.startswith("broker/mint/") for name in before)
    again = veilmart("init", "--currency", "USD", "--listen", "::1", "--json", home=home)
    assert again.data["created"] == []
    assert again.data["currency"] == "EUR"
    assert tree(home) == before


def test_homes_without_init_are_explained(tmp_path: Path) -> None:
    for words in (
        ("bus", "run"),
        ("broker", "run"),
        ("broker", "account", "list"),
        ("broker", "ledger", "check"),
        ("ca", "list"),
        ("status",),
        ("audit", "watch"),
        ("merchant", "run"),
        ("merchant", "product", "list"),
        ("wallet",),
    ):
        ran = veilmart(*words, "--json", home=tmp_path / "nothing")
        assert (ran.code, ran.error["code"]) == (2, "usage"), words
        assert ran.error["hint"], words
    assert not (tmp_path / "nothing").exists()


def test_status_without_a_bus_shows_what_there_is_and_ends_with_6(home: Path) -> None:
    ran = veilmart("status", "--timeout", "0.3", "--json", home=home)
    assert (ran.code, ran.error["code"]) == (6, "bus_unreachable")
    shown = ran.envelope["data"]
    assert shown["bus"]["public"]["reachable"] is False
    assert shown["bus"]["nodes"]["reachable"] is False
    assert shown["broker"] == {"state": "unknown", "since": None, "card": False}
    assert {each["name"]: each["warning"] for each in shown["certificates"]} == {
        "ca": False,
        "bus": False,
        "broker": False,
    }


def test_status_warns_of_a_certificate_near_its_end(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = clock.now_ms
    monkeypatch.setattr(clock, "now_ms", lambda: real() + 340 * 24 * 3600 * 1000)
    ran = veilmart("status", "--timeout", "0.1", home=home)
    assert ran.err.count("warning: ") == 2
    assert f"{home / 'broker' / 'identity.crt'} ends on " in ran.err
    assert "veilmart ca renew" in ran.err


# --- accounts ------------------------------------------------------------------------------------------


def test_an_account_from_opening_to_closing(home: Path, password_file: Path) -> None:
    def broker(*words: str | Path) -> Ran:
        return veilmart("broker", *words, "--json", home=home)

    assert broker("account", "list").data == []
    broker("account", "add", "alice", *WHY, "--password-file", password_file)
    assert broker("account", "credit", "alice", "50.00", *WHY, "--yes").data == {
        "name": "alice",
        "credited": 5000,
        "balance": 5000,
        "currency": "EUR",
    }
    assert broker("account", "credit", "alice", "0.5", *WHY, "--yes").data["balance"] == 5050
    broker("account", "disable", "alice", *WHY)
    assert broker("account", "list").data == [
        {"name": "alice", "state": "disabled", "balance": 5050, "currency": "EUR"}
    ]
    assert broker("account", "enable", "alice", *WHY).data == {"name": "alice", "state": "enabled"}
    assert broker("ledger", "check").data["books"] == {"account:1": 5050, "operator": -5050}

    again = broker("account", "add", "alice", *WHY, "--password-file", password_file)
    assert (again.code, again.error["code"]) == (4, "rejected")
    for words in (("credit", "bob", "1"), ("disable", "bob"), ("enable", "bob")):
        missing = broker("account", *words, *WHY)
        assert (missing.code, missing.error["code"]) == (3, "not_found"), words
    for amount in ("0", "-1", "1.234", "ten", "1,50"):
        wrong = broker("account", "credit", "alice", *WHY, "--", amount)
        assert (wrong.code, wrong.out) == (2, ""), amount
    assert broker("account", "list").data[0]["balance"] == 5050
    assert all(PASSWORD.encode() not in content for _, content in tree(home).values())


def test_wrong_books_are_an_error_that_shows_them(home: Path, password_file: Path) -> None:
    veilmart("broker", "account", "add", "alice", *WHY, "--password-file", password_file, home=home)
    store = run.open_store(home / "broker")
    with store.immediate() as tx:
        tx.execute(sa.update(schema.balances).values(amount=7))
    store.close()
    ran = veilmart("broker", "ledger", "check", "--json", home=home)
    assert (ran.code, ran.error["code"]) == (1, "ledger_broken")
    assert len(ran.envelope["data"]["faults"]) == 1
    assert ran.envelope["data"]["payments"] == "stopped"
    assert "account 1 shows 7" in veilmart("broker", "ledger", "check", home=home).out
    store = run.open_store(home / "broker")
    with store.immediate() as tx:
        tx.execute(sa.update(schema.balances).values(amount=0))
    store.close()
    assert veilmart("broker", "ledger", "check", home=home).out.splitlines()[-1] == "payments go on"
    assert veilmart("broker", "ledger", "check", "--json", home=home).data["payments"] == "running"


def test_a_home_of_its_own_is_named_with_home(home: Path, tmp_path: Path, password_file: Path) -> None:
    moved = tmp_path / "elsewhere"
    (home / "broker").rename(moved)
    words = ("broker", "account", "add", "alice", *WHY, "--password-file", password_file)
    assert veilmart(*words, home=home).code == 2
    assert veilmart(*words, "--home", moved, home=home).code == 0


# --- passwords -----------------------------------------------------------------------------------------


def test_a_password_is_asked_for_twice_without_echo(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [PASSWORD, PASSWORD]
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(getpass, "getpass", lambda _prompt, **_stream: answers.pop())
    assert veilmart("broker", "account", "add", "alice", *WHY, home=home).code == 0
    assert answers == []
    answers = [PASSWORD, "another one"]
    assert veilmart("broker", "account", "add", "bob", *WHY, "--json", home=home).error["code"] == "usage"


def test_a_terminal_that_ends_ends_the_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(_prompt: str, **_stream: Any) -> str:
        raise EOFError

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(getpass, "getpass", ended)
    ran = veilmart("broker", "account", "add", "carol", *WHY, "--json", home=home)
    assert (ran.code, ran.error["code"]) == (130, "interrupted")


def test_in_a_pipe_a_password_comes_from_a_file_or_not_at_all(home: Path) -> None:
    ran = veilmart("broker", "account", "add", "alice", *WHY, "--json", home=home)
    assert (ran.code, ran.error["code"]) == (2, "usage")
    assert "--password-file" in ran.error["hint"]


@pytest.mark.parametrize(
    ("content", "password"),
    [(b"secret", "secret"), (b"secret\n", "secret"), (b"secret\r\n", "secret"), (b" s p \n", " s p ")],
)
def test_the_editors_newline_is_no_part_of_a_password(content: bytes, password: str, tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes(content)
    assert read_password(path, new=False) == password


def test_a_password_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"secret\n")))
    assert read_password(Path("-"), new=True) == "secret"


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb\n", b"\xff", b"x" * 5000])
def test_what_is_no_password_is_refused_without_being_shown(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes(content)
    ran = veilmart("signup", "alice", "--password-file", path, "--json", home=tmp_path)
    assert ran.code == 2
    assert "xxxx" not in ran.out


# --- CA and merchants ----------------------------------------------------------------------------------


def test_a_merchant_joins_from_its_own_home(home: Path, tmp_path: Path) -> None:
    """CA, broker, bus and merchant on machines of their own: only files travel between them."""
    ca_home, broker_home, bus_home = (tmp_path / name for name in ("the-ca", "the-broker", "the-bus"))
    for name, place in (("ca", ca_home), ("broker", broker_home), ("bus", bus_home)):
        (home / name).rename(place)
    shop, market = tmp_path / "the-shop", home / "market.json"
    nowhere = tmp_path / "nowhere"

    request = veilmart(
        *("merchant", "init", "sports", "--name", "Sports & Co", "--market", market),
        *("--home", shop, "--json"),
        home=nowhere,
    ).data["request"]
    certificate = tmp_path / "sports.crt"
    signed = veilmart("ca", "sign", request, "--out", certificate, "--home", ca_home, "--json", home=nowhere)
    assert signed.data["name"] == "sports"
    assert signed.data["written"] == [str(certificate)]
    installed = veilmart("merchant", "install-cert", certificate, "--home", shop, "--json", home=nowhere)
    assert installed.data["merchant"] == "sports"

    renewed = veilmart("ca", "renew", "sports", "--home", ca_home, home=nowhere)
    assert renewed.out.startswith("-----BEGIN CERTIFICATE-----\n")
    certificate.write_text(renewed.out)
    assert veilmart("merchant", "install-cert", certificate, "--home", shop, home=nowhere).code == 0

    revoked = veilmart("ca", "revoke", "sports", "--home", ca_home, "--json", home=nowhere)
    assert revoked.data["installed"] == []
    crl = revoked.data["crl"]
    for group, place in (("broker", broker_home), ("bus", bus_home)):
        first = veilmart(group, "install-crl", crl, "--home", place, "--json", home=nowhere)
        assert first.data == {"path": str(place / "crl.pem"), "changed": True}
        again = veilmart(group, "install-crl", crl, "--home", place, "--json", home=nowhere)
        assert again.data["changed"] is False
        assert (place / "crl.pem").read_bytes() == (ca_home / "crl.pem").read_bytes()
    states = {
        (each["name"], each["state"])
        for each in veilmart("ca", "list", "--home", ca_home, "--json", home=nowhere).data
    }
    assert states == {("bus", "valid"), ("broker", "valid"), ("sports", "revoked")}
    assert not nowhere.exists()


def test_revoking_installs_the_list_where_it_is_told_to(home: Path) -> None:
    veilmart("merchant", "init", "sports", "--name", "Sports", home=home)
    veilmart("ca", "sign", home / "merchants/sports/identity.csr", home=home)
    ran = veilmart(
        *("ca", "revoke", "sports", "--broker-home", home / "broker", "--bus-home", home / "bus", "--json"),
        home=home,
    )
    assert ran.data["installed"] == [str(home / name / "crl.pem") for name in ("broker", "bus")]
    assert (home / "bus/crl.pem").read_bytes() == (home / "ca/crl.pem").read_bytes()


def test_renewing_the_bus_installs_its_certificate(home: Path) -> None:
    before = (home / "bus/server.crt").read_bytes()
    words = ("ca", "renew", "bus", "--host", "market.example", "--bus-home", home / "bus", "--json")
    data = veilmart(*words, home=home).data
    assert data["written"] == [str(home / "bus/server.crt")]
    assert (home / "bus/server.crt").read_text() == data["certificate"] != before.decode()
    wrong = veilmart("ca", "renew", "bus", "--broker-home", home / "broker", "--json", home=home)
    assert (wrong.code, wrong.error["code"]) == (2, "usage")


def test_what_a_ca_refuses(home: Path, tmp_path: Path) -> None:
    def refusal(*words: str | Path) -> tuple[int, str]:
        ran = veilmart(*words, "--json", home=home)
        return ran.code, ran.error["code"]

    assert refusal("merchant", "init", "broker", "--name", "Me") == (2, "usage")
    assert refusal("merchant", "init", "No/Slash", "--name", "Me") == (2, "usage")
    veilmart("merchant", "init", "sports", "--name", "Sports", home=home)
    request = home / "merchants/sports/identity.csr"
    assert refusal("ca", "sign", request, "--merchant", "other") == (1, "untrusted")
    assert refusal("ca", "sign", tmp_path / "missing") == (2, "usage")
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"not a request")
    assert refusal("ca", "sign", garbage) == (1, "untrusted")
    assert refusal("ca", "revoke", "nobody") == (3, "not_found")
    assert refusal("ca", "renew", "nobody") == (3, "not_found")
    assert refusal("broker", "install-crl", garbage) == (1, "untrusted")
    assert refusal("merchant", "install-cert", garbage) == (1, "untrusted")
    veilmart("ca", "sign", request, home=home)
    veilmart("ca", "revoke", "sports", home=home)
    assert refusal("ca", "sign", request) == (4, "rejected")


# --- products ------------------------------------------------------------------------------------------


@pytest.fixture
def shop(home: Path, tmp_path: Path) -> Path:
    """The market's folder, with a certified merchant `sports`."""
    veilmart("merchant", "init", "sports", "--name", "Sports", home=home)
    certificate = tmp_path / "sports.crt"
    veilmart("ca", "sign", home / "merchants/sports/identity.csr", "--out", certificate, home=home)
    assert veilmart("merchant", "install-cert", certificate, home=home).code == 0
    return home


def test_products_from_adding_to_removing(shop: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.txt"
    plan.write_text("run")

    def product(*words: str | Path) -> Ran:
        return veilmart("merchant", "product", *words, "--json", home=shop)

    added = product(
        *("add", plan, "--sku", "plan-10k", "--title", "10 km", "--price", "9.99"),
        *(
            "--category",
            "Plans",
            "--tag",
            "run",
            "--tag",
            "10k",
            "--description",
            "Eight weeks.",
            "--stock",
            "5",
        ),
    ).data
    assert (added["sku"], added["price"], added["tags"], added["file_name"]) == (
        "plan-10k",
        999,
        ["run", "10k"],
        "plan.txt",
    )
    assert product("list").data[0]["stock"] == 5
    edited = product("edit", "plan-10k", "--price", "8.5", "--stock", "unlimited").data
    assert (edited["price"], edited["title"], edited["version"]) == (850, "10 km", 2)
    assert product("list").data[0]["stock"] is None
    (privacy,) = veilmart("merchant", "privacy", "--json", home=shop).data
    assert (privacy["sku"], privacy["others"]) == ("plan-10k", 0)
    assert privacy["advice"]
    assert product("remove", "plan-10k").data == {"sku": "plan-10k", "removed": True}
    assert product("list").data == []

    assert product("remove", "plan-10k").error["code"] == "not_found"
    assert product("edit", "plan-10k", "--title", "x").code == 3
    nothing = product("add", tmp_path / "none", "--sku", "a", "--title", "A", "--price", "1")
    assert (nothing.code, nothing.error["code"]) == (2, "usage")
    assert product("add", plan, "--sku", "a", "--title", "A", "--price", "1", "--stock", "many").code == 2
    assert product("add", plan, "--sku", "../a", "--title", "A", "--price", "1").code == 2
    assert product("list").data == []


def test_books_of_a_merchant_without_a_sale(shop: Path) -> None:
    assert veilmart("merchant", "orders", "--json", home=shop).data == []
    assert veilmart("merchant", "sales", "--json", home=shop).data == {
        "takings": [],
        "total": 0,
        "tax": 0,
        "currency": "EUR",
    }


def test_of_several_merchants_one_is_named(shop: Path) -> None:
    veilmart("merchant", "init", "books", "--name", "Books", home=shop)
    ran = veilmart("merchant", "product", "list", "--json", home=shop)
    assert (ran.code, ran.error["message"]) == (2, "There are several merchants: books, sports.")
    assert veilmart("merchant", "product", "list", "--merchant", "sports", home=shop).code == 0
    assert veilmart("merchant", "product", "list", home=shop, VEILMART_MERCHANT="sports").code == 0
    assert veilmart("merchant", "product", "list", "--home", shop / "merchants/sports", home=shop).code == 0


# --- customers, without a bus --------------------------------------------------------------------------


def test_joining_twice_and_another_market(home: Path, tmp_path: Path) -> None:
    joined = veilmart("join", home / "market.json", "--no-passphrase", "--json", home=home).data
    assert joined["profile"] == str(home / "customer")
    assert (
        veilmart("customer", "join", home / "market.json", "--no-passphrase", "--json", home=home).data
        == joined
    )
    other = (home / "market.json").read_text().replace('"broker_fingerprint": "', '"broker_fingerprint": "00')
    forged = tmp_path / "forged.json"
    forged.write_text(other)
    assert veilmart("join", forged, "--no-passphrase", "--json", home=home).error["code"] == "untrusted"
    empty = veilmart("wallet", "--json", home=home).data
    assert (empty["usable"], empty["tickets"], empty["logged_in"]) == (0, 0, False)
    assert veilmart("cart", "show", "--json", home=home).data["lines"] == []
    assert veilmart("orders", "--json", home=home).data == []
    for words in (
        ("order", "show", "ab"),
        ("receipt", "ab"),
        ("receipt", "--last"),
        ("order", "show", "--last"),
        ("download", "--last"),
    ):
        ran = veilmart(*words, "--json", home=home)
        assert (ran.code, ran.error["code"]) == (3, "not_found"), words
    for words in (("receipt",), ("download",), ("buy", "sports"), ("receipt", "ab", "--last")):
        ran = veilmart(*words, "--json", home=home)
        assert (ran.code, ran.error["code"]) == (2, "usage"), words


def test_a_profile_is_named_by_option_or_variable(home: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    market = home / "market.json"
    assert veilmart("join", market, "--no-passphrase", "--profile", first, "--json", home=home).data[
        "profile"
    ] == str(first)
    assert veilmart(
        "join", market, "--no-passphrase", "--json", home=home, VEILMART_PROFILE=str(second)
    ).data["profile"] == str(second)
    assert veilmart("wallet", "--profile", first, home=home).code == 0


def test_two_processes_on_one_profile(home: Path) -> None:
    veilmart("join", home / "market.json", "--no-passphrase", home=home)
    with Market(home / "customer"):
        ran = veilmart("wallet", "--json", home=home)
    assert (ran.code, ran.error["code"], ran.error["retryable"]) == (1, "busy", True)


def test_an_unreachable_bus_ends_with_6(home: Path) -> None:
    veilmart("join", home / "market.json", "--no-passphrase", home=home)
    for words in (
        ("merchants",),
        ("buy", "sports", "plan", "--yes"),
        ("merchants", "--proxy", "socks5://127.0.0.1:9"),
    ):
        ran = veilmart(*words, "--timeout", "0.3", "--json", home=home)
        assert (ran.code, ran.error["code"]) == (6, "bus_unreachable"), words
    assert veilmart("merchants", "--proxy", "http://x", "--json", home=home).error["code"] == "usage"


def test_young_coins_are_used_with_a_warning(home: Path) -> None:
    veilmart("join", home / "market.json", "--no-passphrase", home=home)
    ran = veilmart("wallet", "--now", "--json", home=home)
    assert ran.code == 0
    assert ran.err.startswith("warning: ")
