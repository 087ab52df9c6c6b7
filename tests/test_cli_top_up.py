"""Topping up at the command line: nothing of a card is an argument, nothing of it is shown."""

from __future__ import annotations

import getpass
import io
import json
import re
import sys
from contextlib import closing
from pathlib import Path

import pytest
from cli import Ran, Terminal, veilmart
from readme import ROOT, sections
from real_market import RealMarket

from broker_node import charges
from broker_node.run import open_store
from veilmart.cli import card_entry

NUMBER, NAME = "4242424242424242", "Augusta King"
FIELDS = {"number": NUMBER, "expiry": "12/34", "security_code": "987", "name": NAME}


def card_file(folder: Path, name: str = "card.json", mode: int = 0o600, **changes: str) -> Path:
    path = folder / name
    if name.endswith("toml"):
        path.write_text("".join(f'{key} = "{value}"\n' for key, value in (FIELDS | changes).items()))
    else:
        path.write_text(json.dumps(FIELDS | changes))
    path.chmod(mode)
    return path


def shows_no_card(ran: Ran) -> bool:
    said = ran.out + ran.err
    # Three digits stand in many a random id: what must not be there is the code by itself.
    code = re.search("(?<![0-9a-f])987(?![0-9a-f])", said)
    return code is None and not any(secret in said for secret in (NUMBER, NUMBER[:12], NAME))


# --- against real processes ----------------------------------------------------------------------------


@pytest.fixture
def profile(real_market: RealMarket, tmp_path: Path) -> Path:
    return real_market.customer(tmp_path / f"payer-{tmp_path.name}", bundles=0)


def test_a_top_up_from_a_file(real_market: RealMarket, profile: Path, tmp_path: Path) -> None:
    path = card_file(tmp_path, "card.toml")
    words = ("topup", "50.00", "--card-file", path, "--idempotency-key", "rent", "--yes")
    first, again = (real_market.ran(*words, profile=profile) for _ in "12")
    assert (first.data["amount"], first.data["balance"], first.data["resumed"]) == (5000, 5000, False)
    assert (first.data["brand"], first.data["last_four"], first.data["state"]) == ("visa", "4242", "charged")
    assert (again.data["operation"], again.data["resumed"]) == (first.data["operation"], True)
    assert real_market.ran("balance", profile=profile).data["amount"] == 5000
    (listed,) = real_market.ran("topups", profile=profile).data
    assert (listed["charge"], listed["state"]) == (first.data["charge"], "charged")
    assert shows_no_card(first)
    told = veilmart("topups", VEILMART_PROFILE=str(profile))
    assert "50.00 EUR\tvisa ...4242\tcharged" in told.out
    gateway = real_market.ran("broker", "gateway", "show").data
    assert gateway["kind"] == "sandbox"
    assert {each["state"] for each in gateway["charges"]} >= {"charged"}


@pytest.mark.parametrize(
    ("number", "reason"), [("4000000000000002", "card_declined"), ("4000000000000069", "card_expired")]
)
def test_a_declined_card_ends_with_4_and_its_reason(
    real_market: RealMarket, profile: Path, tmp_path: Path, number: str, reason: str
) -> None:
    path = card_file(tmp_path, number=number)
    ran = real_market.ran("topup", "50.00", "--card-file", path, "--yes", profile=profile)
    assert (ran.code, ran.error["code"], ran.error["reason"]) == (4, "card_declined", reason)
    assert ran.error["hint"]
    assert number not in ran.out + ran.err


def test_a_silent_gateway_ends_with_27_and_resume_finds_out(
    real_market: RealMarket, profile: Path, tmp_path: Path
) -> None:
    path = card_file(tmp_path, number="4000000000002008")
    ran = real_market.ran("topup", "50.00", "--card-file", path, "--timeout", "0.5", "--yes", profile=profile)
    assert (ran.code, ran.error["hop"]) == (27, "gateway")
    resumed = real_market.ran("resume", profile=profile)
    assert resumed.code == 4
    assert real_market.ran("topups", profile=profile).data[0]["state"] == "refused"
    assert real_market.ran("balance", profile=profile).data["amount"] == 0


def test_the_demos_amounts_are_checked(real_market: RealMarket, profile: Path, tmp_path: Path) -> None:
    path = card_file(tmp_path)
    for amount, code in (("0.50", 4), ("1000.01", 4), ("0", 2), ("1.234", 2), ("much", 2)):
        assert real_market.ran("topup", amount, "--card-file", path, "--yes", profile=profile).code == code


# --- the card ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A market that does not run."""
    home = tmp_path_factory.mktemp("made") / "market"
    assert veilmart("init", home=home).code == 0
    return home


@pytest.fixture(scope="module")
def joined(made: Path) -> Path:
    """A profile of it."""
    home, profile = made, made.parent / "profile"
    assert veilmart("join", home / "market.json", "--no-passphrase", VEILMART_PROFILE=str(profile)).code == 0
    return profile


def test_a_card_is_checked_before_anybody_is_called(joined: Path, tmp_path: Path) -> None:
    path = card_file(tmp_path, number="4242424242424241", expiry="01/20")
    ran = veilmart("topup", "50.00", "--card-file", path, "--yes", "--json", VEILMART_PROFILE=str(joined))
    assert (ran.code, ran.error["code"], set(ran.error["faults"])) == (
        2,
        "card_invalid",
        {"number", "expiry"},
    )
    assert "4242" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("name", "content", "mode"),
    [
        ("open.json", json.dumps(FIELDS), 0o644),
        ("less.json", json.dumps({"number": NUMBER}), 0o600),
        ("more.json", json.dumps(FIELDS | {"pin": "1234"}), 0o600),
        ("number.json", json.dumps(FIELDS | {"number": int(NUMBER)}), 0o600),
        ("broken.json", '{"number": "4242424242424242"', 0o600),
        ("broken.toml", 'number = "4242424242424242', 0o600),
        ("bytes", b"\xff\xfe4242424242424242".decode("latin-1"), 0o600),
    ],
)
def test_files_that_are_no_card_files(
    joined: Path, tmp_path: Path, name: str, content: str, mode: int
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="latin-1")
    path.chmod(mode)
    ran = veilmart("topup", "50.00", "--card-file", path, "--yes", VEILMART_PROFILE=str(joined))
    assert ran.code == 2
    assert str(path) in ran.err
    assert shows_no_card(ran)


def test_in_a_pipe_a_card_comes_from_a_file_or_not_at_all(
    joined: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    ran = veilmart("topup", "50.00", VEILMART_PROFILE=str(joined))
    assert ran.code == 2
    assert "--card-file" in ran.err


def test_a_card_is_asked_for_and_secrets_without_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden: list[str] = []

    def without_echo(prompt: str, stream: object) -> str:
        assert stream is sys.stderr
        hidden.append(prompt)
        return {"Card number: ": "4242 4242 4242 4242", "Security code: ": "987"}[prompt]

    terminal = Terminal("12/34\nAugusta King\n")
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(getpass, "getpass", without_echo)
    found = card_entry.read_card(None)
    assert (found.number, found.security_code, found.month, found.year) == (NUMBER, "987", 12, 2034)
    assert found.name == NAME
    assert hidden == ["Card number: ", "Security code: "]


def test_a_card_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(json.dumps(FIELDS).encode())

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert card_entry.read_card(Path("-")).number == NUMBER


# --- the operator --------------------------------------------------------------------------------------


def test_the_operator_chooses_a_gateway_and_is_warned_of_the_sandbox(tmp_path: Path) -> None:
    home, key = tmp_path / "market", tmp_path / "key"
    assert veilmart("init", "--gateway", "sandbox", home=home).code == 0
    # Repeated, it changes nothing.
    assert veilmart("init", "--gateway", "none", home=home).code == 0
    shown = veilmart("broker", "gateway", "show", home=home)
    assert "gateway: sandbox" in shown.out
    assert "WARNING" in shown.err
    assert veilmart("broker", "gateway", "use", "stripe", home=home).code == 2
    key.write_text("sk_test_of-nobody\n")
    store = open_store(home / "broker")
    with closing(store), store.immediate() as tx:
        for number, state in enumerate(("unknown", "charged", "declined")):
            tx.insert(charges.INSERT, charges.new_row(bytes([number]) * 16, 1, 0) | {"state": state})
    again = veilmart("broker", "gateway", "use", "sandbox", home=home)
    assert "under way" not in again.err, "it stays the same one"
    used = veilmart("broker", "gateway", "use", "stripe", "--key-file", key, home=home)
    assert used.code == 0
    assert "charges under way at the gateway of before (sandbox): 1." in used.err
    assert (home / "broker" / "stripe.key").stat().st_mode & 0o777 == 0o600
    shown = veilmart("broker", "gateway", "show", "--json", home=home)
    assert shown.data["kind"] == "stripe"
    assert "WARNING" not in shown.err
    assert "sk_test" not in used.out + used.err + shown.out
    market = home / "broker" / "market.json"
    market.write_text(market.read_text().replace('"EUR"', '"ISK"'))
    refused = veilmart("broker", "gateway", "use", "stripe", "--json", home=home)
    assert (refused.code, refused.error["code"]) == (2, "usage")
    assert "ISK" in refused.error["message"]


def test_a_market_takes_no_cards_unless_it_is_told_to(made: Path) -> None:
    assert veilmart("broker", "gateway", "show", "--json", home=made).data["kind"] == "none"


def test_what_the_readme_says_of_gateways(made: Path) -> None:
    home = made
    (lines,) = sections("gateway")
    for line in lines:
        program, *words = line.partition("#")[0].split()
        assert program == "veilmart"
        assert veilmart(*words, home=home).code == 0
    readme = (ROOT / "README.md").read_text()
    assert "4242 4242 4242 4242" in readme
