"""A wallet at rest: what opens it, what a stolen profile gives away, and words that bring the seed back."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cli import Ran, Terminal, veilmart
from customer_shop import Bazaar, build
from hypothesis import given
from hypothesis import strategies as st
from old_stores import bring_to
from profile_rows import profile_rows

import customer_node.migrations
from common import clock
from common.errors import AuthenticationError, UntrustedError, UsageError
from customer_node import KeyFile, Market, Passphrase, profile, schema, seed_file, words
from customer_node.orders import Secrets
from customer_node.profile import open_store
from customer_node.sealed_columns import RowCipher, attach
from veilmart.cli.times import minute_of
from veilmart.evidence import Evidence

SEED = bytes(range(32))
RIGHT, WRONG = Passphrase("an ocean of öre"), Passphrase("an ocean of ore")
KEY = KeyFile(bytes(32))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little memory: what is tried here is not how long guessing takes."""
    monkeypatch.setattr(seed_file, "MEMORY_KIB", 64)


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = build(tmp_path_factory.mktemp("at rest"))
    yield built
    built.world.close()


@pytest.fixture
def sealed(bazaar: Bazaar) -> Path:
    """A profile under a passphrase, with coins, an order and an open visit."""
    bazaar.customers += 1
    name = f"sealed{bazaar.customers}"
    home = bazaar.profile(name)
    Market.join(home, bazaar.world.market_path, RIGHT)
    with opened(bazaar, home, RIGHT) as market:
        market.sign_up(name, "correct horse battery")
        bazaar.world.fund(name, 2000)
        market.withdraw()
        market.cart.add("maps", "ROUTE")
        market.buy_now("sports", "PLAN")
    return home


def opened(bazaar: Bazaar, home: Path, unlock: Passphrase | KeyFile | None) -> Market:
    return Market(home, connect=bazaar.world.connect, unlock=unlock)


# --- the seed's file -----------------------------------------------------------------------------------


@pytest.mark.parametrize("unlock", [RIGHT, KEY])
def test_what_sealed_a_seed_opens_it(unlock: Passphrase | KeyFile) -> None:
    content = seed_file.seal_seed(SEED, unlock, clock.random_bytes)
    assert SEED not in content
    assert seed_file.open_seed(content, unlock) == SEED
    for other in (WRONG, KeyFile(bytes(31)), None):
        with pytest.raises(AuthenticationError) as refused:
            seed_file.open_seed(content, other)
        assert refused.value.exit_code == 5


def test_two_spellings_of_one_passphrase_are_one() -> None:
    content = seed_file.seal_seed(SEED, RIGHT, clock.random_bytes)
    assert seed_file.open_seed(content, Passphrase("an ocean of o\u0308re")) == SEED


def test_every_changed_byte_of_a_seed_file_is_found() -> None:
    content = seed_file.seal_seed(SEED, KEY, clock.random_bytes)
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        with pytest.raises((AuthenticationError, UntrustedError)):
            seed_file.open_seed(bytes(changed), KEY)
        with pytest.raises((AuthenticationError, UntrustedError)):
            seed_file.open_seed(content[:position], KEY)


def test_no_secret_is_in_a_repr() -> None:
    assert "ocean" not in repr(RIGHT)
    assert repr(KeyFile(b"sixteen bytes of")) == "KeyFile()"


# --- words ---------------------------------------------------------------------------------------------


LEGAL, LETTER = (
    "legal winner thank year wave sausage worth useful",
    "letter advice cage absurd amount doctor acoustic avoid",
)


@pytest.mark.parametrize(
    ("seed", "text"),
    [  # BIP 39's own vectors of 256 bits (github.com/trezor/python-mnemonic, vectors.json)
        ("00" * 32, "abandon " * 23 + "art"),
        ("7f" * 32, f"{LEGAL} {LEGAL} {LEGAL.removesuffix('useful')}title"),
        ("80" * 32, f"{LETTER} {LETTER} {LETTER.removesuffix('avoid')}bless"),
        ("ff" * 32, "zoo " * 23 + "vote"),
    ],
)
def test_words_are_those_of_bip_39(seed: str, text: str) -> None:
    assert words.words_of(bytes.fromhex(seed)) == text.split()
    assert words.seed_of(text.upper().replace(" ", "\n  ")) == bytes.fromhex(seed)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 23), st.integers(1, 2047))
def test_another_word_is_another_seed_or_none(seed: bytes, place: int, step: int) -> None:
    spelled = words.words_of(seed)
    known = words._english().wordlist
    spelled[place] = known[(known.index(spelled[place]) + step) % len(known)]
    with contextlib.suppress(UsageError):
        assert words.seed_of(" ".join(spelled)) != seed


def test_too_few_or_unknown_words_are_refused_unrepeated() -> None:
    spelled = words.words_of(SEED)
    for wrong in (spelled[:-1], [*spelled[:-1], "veilmart"]):
        with pytest.raises(UsageError) as refused:
            words.seed_of(" ".join(wrong))
        assert "veilmart" not in refused.value.message


# --- a profile -----------------------------------------------------------------------------------------


def test_a_wrong_passphrase_changes_nothing(bazaar: Bazaar, sealed: Path) -> None:
    before = {path.name: path.read_bytes() for path in sealed.iterdir()}
    for unlock in (WRONG, KEY, None):
        with pytest.raises(AuthenticationError):
            opened(bazaar, sealed, unlock)
    assert {path.name: path.read_bytes() for path in sealed.iterdir()} == before
    with opened(bazaar, sealed, RIGHT) as market:
        assert market.wallet().usable > 0


def test_nothing_secret_stands_in_the_files_of_a_sealed_profile(bazaar: Bazaar, sealed: Path) -> None:
    with opened(bazaar, sealed, RIGHT) as market:
        seed = market._context.profile.seed
    values: dict[str, bytes | str] = {"seed": seed}
    store = open_store(sealed, seed, clock.random_bytes)
    with closing(store), store.immediate() as tx:
        for row in tx.all(sa.select(schema.order_secrets)):
            secrets = Secrets.of(row["secret"])
            values |= {"order secret": row["secret"], "answer secret": row["answer_secret"]}
            values |= {name: getattr(secrets, name) for name in ("claim", "status", "fetch")}
            values |= {"placed order": row["place_order"][-64:]}
        for row in tx.all(sa.select(schema.visits)):
            values |= {f"key {n}": row["keys"][n : n + 32] for n in range(0, len(row["keys"]) - 31, 32)}
        for n, row in enumerate(tx.all(sa.select(schema.tokens))):
            values[f"blind signature {n}"] = row["blind_signature"]
        for n, row in enumerate(tx.all(sa.select(schema.operations))):
            values[f"request {n}"] = row["request"][-64:]
        for row in tx.all(sa.select(schema.receipts)):
            values["receipt"] = row["receipt"]
        titles = {row["title"] for row in tx.all(sa.select(schema.cart_lines))}
        titles |= {row["title"] for row in tx.all(sa.select(schema.order_lines))}
        values |= {f"title {n}": title for n, title in enumerate(titles)}
    assert {"receipt", "claim", "key 0", "blind signature 0", "request 0", "title 1"} <= set(values)
    found = Evidence("a thief")
    found.add_home(sealed)
    assert found.search(values) == []
    # The search would find it: the public key that pins the merchant does stand there.
    with closing(sqlite3.connect(sealed / "profile.db")) as raw:
        (pinned,) = raw.execute("SELECT fingerprint FROM merchants").fetchone()
    assert found.search({"what is public": pinned}) != []


def test_a_stolen_profile_spends_nothing(bazaar: Bazaar, sealed: Path) -> None:
    """The thief has every file, puts a seed of his own beside them, and knows the code."""
    profile.replace_file(sealed / profile.SEED_FILE, SEED)
    with pytest.raises(UntrustedError, match="does not open"):
        opened(bazaar, sealed, None)
    with closing(sqlite3.connect(sealed / "profile.db")) as raw, raw:
        raw.executescript("DELETE FROM account_sessions; DELETE FROM visits")
    with opened(bazaar, sealed, None) as thief:
        for attempt in (
            lambda: thief.buy_now("maps", "ROUTE"),
            lambda: thief.show("sports", "PLAN"),
            thief.resume,
        ):
            with pytest.raises(UntrustedError, match="does not open"):
                attempt()
        with pytest.raises(UntrustedError, match="does not open"):
            thief.cart.view()


def test_a_value_moved_to_another_column_does_not_open(bazaar: Bazaar, sealed: Path) -> None:
    with closing(sqlite3.connect(sealed / "profile.db")) as raw, raw:
        raw.execute("UPDATE order_secrets SET secret = answer_secret")
    with opened(bazaar, sealed, RIGHT) as market, pytest.raises(UntrustedError, match="does not open"):
        market.download(market.last_order().order_id, sealed / "out")


def test_protection_is_changed_whole_or_not_at_all(
    bazaar: Bazaar, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    replace = profile.replace_file

    def before(*_: Any, **__: Any) -> None:
        raise Crash

    def after(*given: Any, **options: Any) -> None:
        replace(*given, **options)
        raise Crash

    for death, opens in ((before, RIGHT), (after, KEY)):
        with opened(bazaar, sealed, RIGHT) as market, monkeypatch.context() as patched:
            patched.setattr(profile, "replace_file", death)
            with pytest.raises(Crash):
                market.protect(KEY)
        opened(bazaar, sealed, opens).close()
    assert stat.S_IMODE((sealed / profile.SEED_FILE).stat().st_mode) == 0o600
    assert Market.protection(sealed) == "key_file"
    with opened(bazaar, sealed, KEY) as market:
        usable = market.wallet().usable
        market.protect(None)
    assert Market.protection(sealed) == "none"
    with opened(bazaar, sealed, None) as market:
        assert market.wallet().usable == usable
        market.buy_now("maps", "ROUTE")


def test_joining_again_leaves_the_wallet_sealed(bazaar: Bazaar, sealed: Path) -> None:
    content = (sealed / profile.SEED_FILE).read_bytes()
    Market.join(sealed, bazaar.world.market_path)
    assert (sealed / profile.SEED_FILE).read_bytes() == content


# --- profiles of before --------------------------------------------------------------------------------


def older(home: Path, revision: str, *rows: str) -> None:
    """Make a profile as it was at some revision."""
    engine = sa.create_engine(f"sqlite:///{home / 'profile.db'}")
    attach(engine.dialect, RowCipher(SEED, clock.random_bytes))
    with engine.begin() as connection:
        bring_to(connection, customer_node.migrations, revision)
        for row in rows:
            connection.exec_driver_sql(row)
    engine.dispose()
    (home / profile.SEED_FILE).write_bytes(SEED)


def content(home: Path) -> bytes:
    return b"".join(each.read_bytes() for each in home.glob("profile.db*"))


def test_an_older_profile_is_sealed_when_it_is_opened(tmp_path: Path) -> None:
    older(
        tmp_path,
        "0005",
        "INSERT INTO operations VALUES (x'01', 'swap', 'open', x'73656372657420636f696e73', 1, NULL)",
        "INSERT INTO cart_lines VALUES ('sports', 'A', 1, 'A title in it', 9, 1)",
    )
    assert b"secret coins" in content(tmp_path)

    assert profile_rows(tmp_path, schema.operations.c.request) == [(b"secret coins",)]
    assert profile_rows(tmp_path, schema.cart_lines.c.title) == [("A title in it",)]
    assert b"secret coins" not in content(tmp_path)
    assert b"A title in it" not in content(tmp_path)


def test_why_an_older_profiles_dispute_ended_is_sealed_too(tmp_path: Path) -> None:
    older(
        tmp_path,
        "0013",
        "INSERT INTO orders (order_id, merchant, purchase, state, amount, currency, created, deadline, visit,"
        " settles, refunded, claimed, heard, decision)"
        " VALUES (x'01', 'sports', 'a', 'complete', 1, 'EUR', 1, 1, x'00', 0, 0, 0, 0, 'the film is whole')",
        "INSERT INTO orders (order_id, merchant, purchase, state, amount, currency, created, deadline, visit,"
        " settles, refunded, claimed, heard)"
        " VALUES (x'02', 'sports', 'b', 'complete', 1, 'EUR', 1, 1, x'00', 0, 0, 0, 0)",
    )
    assert b"the film is whole" in content(tmp_path)

    ended = [(b"\x01", "the film is whole"), (b"\x02", "")]
    assert profile_rows(tmp_path, schema.orders.c.order_id, schema.orders.c.decision) == ended
    assert b"the film is whole" not in content(tmp_path)


# --- the command ---------------------------------------------------------------------------------------


@pytest.fixture
def ran(bazaar: Bazaar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("veilmart.cli.profiles.Market", partial(Market, connect=bazaar.world.connect))

    def run(*given: str | Path, **more: Any) -> Ran:
        return veilmart(*given, VEILMART_PROFILE=str(tmp_path / "me"), **more)

    return run


def test_joining_asks_for_a_passphrase_and_so_does_every_command(
    bazaar: Bazaar, ran: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = ran("join", bazaar.world.market_path, "--json")
    assert (nobody.code, nobody.error["code"]) == (2, "usage")
    assert "--no-passphrase" in nobody.error["hint"]
    assert not (tmp_path / "me").exists()

    file = tmp_path / "passphrase"
    file.write_text("an ocean of öre\n")
    joined = ran("join", bazaar.world.market_path, "--passphrase-file", file, "--json")
    assert joined.data["protection"] == "passphrase"

    asked = ran("wallet", "--json")
    assert (asked.code, asked.error["code"]) == (2, "usage")
    (tmp_path / "wrong").write_text("an ocean of ore")
    for words_ in (("wallet",), ("wallet", "show"), ("orders",)):
        refused = ran(*words_, "--passphrase-file", tmp_path / "wrong", "--json")
        assert (refused.code, refused.error["code"]) == (5, "authentication")
        assert ran(*words_, "--passphrase-file", file).code == 0
        assert ran(*words_, VEILMART_PASSPHRASE_FILE=str(file)).code == 0
    # It gets as far as the file, which is no receipt.
    verified = ran("receipt", "verify", file, "--json", VEILMART_PASSPHRASE_FILE=str(file))
    assert (verified.code, verified.error["code"]) == (1, "untrusted")
    monkeypatch.setattr("sys.stdin", Terminal(""))
    asked_for = []

    def typed(prompt: str, **_: Any) -> str:
        asked_for.append(prompt)
        return "an ocean of öre"

    monkeypatch.setattr("getpass.getpass", typed)
    assert ran("wallet").code == 0
    assert ran("wallet", "passphrase").code == 0
    assert asked_for[1:] == ["Passphrase of the wallet: ", "New passphrase of the wallet: ", "Again: "]


def test_a_key_file_is_made_and_can_be_exchanged(bazaar: Bazaar, ran: Any, tmp_path: Path) -> None:
    key, other = tmp_path / "key", tmp_path / "other"
    assert ran("join", bazaar.world.market_path, "--key-file", key, "--json").data["protection"] == "key_file"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert ran("wallet", "--json").error["code"] == "authentication"
    assert ran("wallet", VEILMART_KEY_FILE=str(key)).code == 0
    changed = ran("wallet", "passphrase", "--key-file", key, "--new-key-file", other, "--json")
    assert changed.data == {"protection": "key_file"}
    assert ran("wallet", "--key-file", key).code == 5
    assert ran("wallet", "--key-file", other).code == 0
    (tmp_path / "short").write_bytes(b"short")
    assert ran("wallet", "--key-file", tmp_path / "short").code == 2
    both = ran("wallet", "passphrase", "--key-file", other, "--new-key-file", key, "--no-passphrase")
    assert both.code == 2
    opened_ = ran("wallet", "passphrase", "--key-file", other, "--no-passphrase", "--json")
    assert opened_.data == {"protection": "none"}
    assert ran("wallet").code == 0


def test_words_are_shown_on_a_terminal_or_to_a_script(bazaar: Bazaar, ran: Any, tmp_path: Path) -> None:
    assert "warning" not in ran("join", bazaar.world.market_path, "--no-passphrase").err
    spelled = words.words_of((tmp_path / "me" / profile.SEED_FILE).read_bytes())
    piped = ran("wallet", "backup")
    assert (piped.code, piped.out) == (2, "")
    script = ran("wallet", "backup", "--json")
    assert script.data == {"words": spelled}
    assert "whoever reads them" in script.err
    shown = ran("wallet", "backup", terminal=True)
    by_number = dict(part.split() for line in shown.out.splitlines() for part in _cells(line))
    assert [by_number[str(n)] for n in range(1, 25)] == spelled


def _cells(line: str) -> list[str]:
    found = line.split()
    return [" ".join(found[n : n + 2]) for n in range(0, len(found), 2)]


def test_the_wallet_shows_what_is_pending(bazaar: Bazaar, ran: Any, tmp_path: Path) -> None:
    ran("join", bazaar.world.market_path, "--no-passphrase")
    store = open_store(tmp_path / "me", (tmp_path / "me" / "seed").read_bytes(), clock.random_bytes)
    with closing(store), store.immediate() as tx:
        row = {"operation": bytes(16), "kind": "swap", "state": "open", "request": b"swap", "created": 1}
        tx.execute(sa.insert(schema.operations), row)
        top_up = {"operation": bytes(16), "state": "open", "amount": 5000, "currency": "EUR", "created": 2}
        card = {"brand": "visa", "last_four": "4242", "charge": ""}
        tx.execute(sa.insert(schema.top_ups), top_up | card)
        tx.execute(sa.insert(schema.top_ups), top_up | card | {"operation": b"1" * 16, "heard": 3})
        tx.execute(sa.insert(schema.top_ups), top_up | card | {"operation": b"2" * 16, "state": "charged"})
    wait = {"waits_for": "broker", "waits_until": None}
    assert ran("wallet", "--json").data["pending"] == [
        {"kind": "swap", "since": 1} | wait,
        {"kind": "top_up", "since": 2} | wait,
        # The broker has said that the gateway has not answered.
        {"kind": "top_up", "since": 2} | wait | {"waits_for": "gateway"},
    ]
    shown = ran("wallet", "show").out
    assert f"a swap of coins\t{minute_of(1)}\tthe broker, without a limit\n" in shown
    assert f"a top-up by card\t{minute_of(2)}\tthe gateway, without a limit\n" in shown
    listed = ran("topups").out
    assert "open\tthe gateway, without a limit\t" in listed
    assert "charged\t\t" in listed


def test_options_before_a_wallets_command_are_refused(bazaar: Bazaar, ran: Any, tmp_path: Path) -> None:
    ran("join", bazaar.world.market_path, "--no-passphrase")
    refused = ran("wallet", "--profile", tmp_path / "another", "show", "--json")
    assert (refused.code, refused.error["code"]) == (2, "usage")
