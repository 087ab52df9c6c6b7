"""Downloads and receipts: what is lost is asked for again, what is forged is refused."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import math
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from cli import veilmart
from customer_shop import Bazaar, build, content, home, spoiled
from hypothesis import given
from hypothesis import strategies as st
from readme import block
from world import Publish

from common import config
from common.errors import (
    DeadlineError,
    NotFoundError,
    OutOfStockError,
    RejectedError,
    UntrustedError,
    UsageError,
)
from customer_node import Market, fetching, pace
from customer_node.files import free_names, plain_name

PLAN = content("sports PLAN", 150_000)
LARGE = content("large", 70 * config.CELL_CONTENT + 17)


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = build(tmp_path_factory.mktemp("bazaar"))
    built.add("maps", "LARGE", 5, LARGE, "large.bin")
    built.add("maps", "SLASHED", 6, b"slashed", "..hidden.txt")
    yield built
    built.world.close()


def is_cell(publish: Publish) -> bool:
    """A frame of cells is larger than any other that the broker sends."""
    return publish.topic.endswith("/down") and len(publish.payload) > 64 * config.KIB


# --- files ---------------------------------------------------------------------------------------------


@given(st.text(max_size=300))
def test_a_wished_name_becomes_a_plain_one(wished: str):
    name = plain_name(wished)
    assert name
    assert len(name.encode()) <= 200
    assert not name.startswith(".")
    assert not set(name) & {"/", "\\", "\0", "\n", "\u202e"}
    assert Path(name).name == name


@pytest.mark.parametrize(
    ("wished", "plain"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Windows\\x.exe", "x.exe"),
        ("..", "download"),
        ("", "download"),
        (".bashrc", "bashrc"),
        ("photo\u202egpj.exe", "photogpj.exe"),
        ("route.gpx", "route.gpx"),
    ],
)
def test_names_that_would_lead_elsewhere(wished: str, plain: str):
    assert plain_name(wished) == plain


def test_names_that_are_taken(tmp_path: Path):
    (tmp_path / "a.txt").touch()
    (tmp_path / "a (2).txt.part").touch()
    assert free_names(tmp_path, ["a.txt", "x/a.txt", "b"]) == ["a (3).txt", "a (4).txt", "b"]


def test_nothing_is_overwritten(bazaar: Bazaar, tmp_path: Path):
    (tmp_path / "plan.bin").write_bytes(b"mine")
    with bazaar.customer() as market:
        order = market.buy_now("sports", "PLAN")
        (file,) = market.download(order.order_id, tmp_path)
        assert file.path == tmp_path / "plan (2).bin"
        assert (tmp_path / "plan.bin").read_bytes() == b"mine"
        assert market.download(order.order_id, tmp_path) == (file,), "it is there already"
        file.path.unlink()
        (again,) = market.download(order.order_id, tmp_path)
        assert again.path.read_bytes() == content("sports PLAN", 150_000)
        (elsewhere,) = market.download(order.order_id, tmp_path / "other")
        assert elsewhere.path == tmp_path / "other" / "plan.bin"
        assert market.order(order.order_id).state == "complete"


# --- licence keys --------------------------------------------------------------------------------------


def listed(folder: Path, *keys: str) -> Path:
    path = folder / "list.txt"
    path.write_text("".join(f"{key}\n" for key in keys))
    return path


def test_licence_keys_alone_and_beside_a_file(bazaar: Bazaar, tmp_path: Path):
    node, only = bazaar.world.merchants["sports"], [f"only-é-{number:04}" for number in range(9)]
    node.inventory.add(None, "ONLY", title="Only keys", price=1, keys=listed(tmp_path, *only))
    bazaar.add("sports", "GAME", 2, b"a game" * 20_000, "game.bin", keys=listed(tmp_path, "game-1"))
    with bazaar.customer() as market:
        market.cart.add("sports", "GAME", 1)
        market.cart.add("sports", "ONLY", 3)
        (order,) = market.buy()
        assert market.order(order.order_id).keys == ()
        files = {each.path.name: each for each in market.download(order.order_id, tmp_path / "bought")}
        assert set(files) == {"game.bin", "GAME.keys.txt", "ONLY.keys.txt"}
        assert files["game.bin"].path.read_bytes() == b"a game" * 20_000
        file = files["ONLY.keys.txt"]
        assert file.path.read_text().splitlines() == only[:3]
        assert file.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
        assert file.path.stat().st_mode & 0o777 == 0o600
        found = {each.sku: each.keys for each in market.order(order.order_id).keys}
        assert found == {"GAME": ("game-1",), "ONLY": tuple(only[:3])}
        assert "only-" not in repr(market.order(order.order_id))
        again = market.download(order.order_id, tmp_path / "again")
        assert [each.path.read_text() for each in again if each.sku == "ONLY"] == [file.path.read_text()]
        # Not on the bus, not at the broker, and sealed in the profile.
        assert not any(b"only-" in publish.payload for publish in bazaar.world.bus.passed)
        for place in (bazaar.world.root / "broker", home(market)):
            assert not any(b"only-" in path.read_bytes() for path in place.rglob("*") if path.is_file())
        with pytest.raises(OutOfStockError) as refused:
            market.buy_now("sports", "ONLY", 7)
        assert refused.value.available == 6
        # A merchant that gives others, longer or just as long, than it signed.
        for change in (
            "UPDATE licence_keys SET key = key || '!'",
            "UPDATE licence_keys SET key = '!' || substr(key, 2)",
        ):
            wrong = market.buy_now("sports", "ONLY")
            with node.store.immediate() as tx:
                tx.execute(sa.text(change))
            with pytest.raises(UntrustedError, match="not what sports signed"):
                market.download(wrong.order_id, tmp_path / "wrong")
            assert not list((tmp_path / "wrong").iterdir())
            assert market.order(wrong.order_id).keys == ()
    shown = veilmart("order", "show", order.order_id, "--profile", home(market))
    assert "key of GAME\tgame-1\n" in shown.out


def test_fewer_keys_than_were_bought_are_not_complete(bazaar: Bazaar, tmp_path: Path):
    node = bazaar.world.merchants["maps"]
    node.inventory.add(None, "FEW", title="Few", price=1, keys=listed(tmp_path, "a", "b", "c"))
    with bazaar.customer() as market, pytest.MonkeyPatch.context() as patch:
        patch.setattr("merchant_node.licence_keys.text_of", lambda keys: f"{next(iter(keys))}\n".encode())
        order = market.buy_now("maps", "FEW", 2)
        for _ in range(2):
            with pytest.raises(UntrustedError, match="1 keys of FEW, not 2"):
                market.download(order.order_id, tmp_path)
        assert market.order(order.order_id).state == "downloading"


def test_licence_keys_on_the_merchants_command_line(bazaar: Bazaar, tmp_path: Path):
    place = ("--home", bazaar.world.root / "merchants" / "sports")
    words = ("--sku", "CLI", "--title", "C", "--price", "1", "--keys", listed(tmp_path, "cli 1", "cli 2"))
    added = veilmart("--json", "merchant", "product", "add", *words, *place)
    assert (added.data["keys"], added.data["file_name"]) == (True, "CLI.keys.txt")
    more = veilmart("--json", "merchant", "product", "keys", "add", "CLI", listed(tmp_path, "cli 3"), *place)
    assert more.data == {"added": 1, "known": 0, "left": 3}
    counted = veilmart("--json", "merchant", "product", "keys", "count", "CLI", *place)
    assert counted.data == {"left": 3, "given": 0}
    table = veilmart("merchant", "product", "list", *place)
    assert "\t3 keys" in table.out
    assert "3 keys of CLI are left" in table.err


def test_the_readmes_section_on_licence_keys_works(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with bazaar.customer() as market:
        pass
    monkeypatch.setattr("veilmart.cli.profiles.Market", partial(Market, connect=bazaar.world.connect))
    monkeypatch.chdir(tmp_path)
    here = {"VEILMART_PROFILE": str(home(market)), "VEILMART_MERCHANT": "sports"}
    said = ""
    for line in block("keys"):
        words = shlex.split(line)
        if words[0] == "veilmart":
            ran = veilmart(*words[1:], home=bazaar.world.root, **here)
            assert ran.code == 0, (line, ran.err)
            said = ran.out
        else:
            said = subprocess.run(["sh", "-c", line], check=True, capture_output=True, text=True).stdout
        if words[0] == "cat":
            assert said == "AAAA-1111\nBBBB-2222\n"
    assert said == "left\tgiven\n2\t2\n"


# --- cells ---------------------------------------------------------------------------------------------


def test_an_interrupted_download_asks_only_for_what_is_missing(bazaar: Bazaar, tmp_path: Path):
    with bazaar.customer() as market:
        order = market.buy_now("maps", "LARGE")
        steps = market.download_steps(order.order_id, tmp_path)
        assert next(steps).cells_done == 0
        half = next(steps)
        steps.close()  # type: ignore[attr-defined]
        assert 0 < half.cells_done < half.cells
        assert not (tmp_path / "large.bin").exists()
        assert market.order(order.order_id).state == "downloading"
    with bazaar.again(market) as market:
        seen = len(bazaar.world.bus.passed)
        progress: list[Any] = []
        (file,) = market.download(order.order_id, progress=progress.append)
        assert file.path.read_bytes() == LARGE
        assert progress[0].cells_done == half.cells_done
        assert (progress[-1].bytes_done, progress[-1].size) == (len(LARGE), len(LARGE))
        sent = sum(is_cell(publish) for publish in bazaar.world.bus.passed[seen:])
        # What was under way when the download was given up comes in vain.
        under_way = in_frames(pace.LARGEST_WINDOW) * fetching.WINDOWS_UNDER_WAY
        assert 0 <= sent - in_frames(half.cells - half.cells_done) <= under_way
        assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(("allowed", "largest"), [(64, 16), (8, 8)])
def test_windows_grow_as_far_as_the_broker_allows(
    bazaar: Bazaar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int, largest: int
):
    relay = bazaar.world.broker.broker._relay
    monkeypatch.setattr(relay, "_limits", msgspec.structs.replace(relay._limits, cell_window=allowed))
    forward, windows = relay._forward_fetch, list[int]()

    def note(fetch: Any, now: int, random: Any) -> Any:
        windows.append(fetch.question.cells)
        return forward(fetch, now, random)

    monkeypatch.setattr(relay, "_forward_fetch", note)
    with bazaar.customer() as market:
        order = market.buy_now("maps", "LARGE")
        (file,) = market.download(order.order_id, tmp_path)
    assert file.path.read_bytes() == LARGE
    assert windows[:3] == [8, 8, 8]
    assert max(windows) >= largest
    assert (max(windows) > 8) == (allowed > 8)
    assert sum(windows) == order_cells(market, bazaar, order.order_id), "nothing was asked for twice"


def test_cells_that_are_lost_repeated_or_changed(
    bazaar: Bazaar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("customer_node.fetching.PATIENCE_MS", 300)
    monkeypatch.setattr("broker_node.relay.FETCH_PATIENCE_MS", 200)
    count = 0

    def tamper(publish: Publish) -> list[Publish]:
        nonlocal count
        if not is_cell(publish):
            return [publish]
        count += 1
        broken = bytearray(publish.payload)
        broken[count * 31 % len(broken)] ^= 1 << count % 8
        changed = Publish(publish.sender, publish.topic, bytes(broken), publish.retain)
        return {0: [], 1: [publish, publish], 2: [changed, publish], 3: [changed]}.get(count % 10, [publish])

    with bazaar.customer() as market:
        order = market.buy_now("maps", "LARGE")
        with bazaar.tampering(tamper):
            (file,) = market.download(order.order_id, tmp_path)
    assert file.path.read_bytes() == LARGE
    assert count > in_frames(order_cells(market, bazaar, order.order_id))


def in_frames(cells: int) -> int:
    return math.ceil(cells / config.CELLS_PER_FRAME)


def order_cells(market: Market, bazaar: Bazaar, order_id: str) -> int:
    with bazaar.again(market) as opened:
        return opened.order(order_id).cells or 0


def test_silence_leaves_what_came(bazaar: Bazaar, tmp_path: Path):
    with bazaar.customer(timeout_s=1.0) as market:
        order = market.buy_now("maps", "LARGE")
        count = 0

        def lose_after_three(publish: Publish) -> list[Publish]:
            nonlocal count
            count += is_cell(publish)
            return [] if is_cell(publish) and count > 3 else [publish]

        with bazaar.tampering(lose_after_three), pytest.raises(DeadlineError):
            market.download(order.order_id, tmp_path)
        assert market.order(order.order_id).cells_done == 3 * config.CELLS_PER_FRAME
    bazaar.world.pump(lambda: False, 0.1)


def test_content_that_was_not_signed_gets_no_name_and_is_kept_to_be_shown(bazaar: Bazaar, tmp_path: Path):
    bazaar.add("sports", "SWAPPED", 7, b"what was promised")
    with bazaar.customer() as market, spoiled(bazaar, b"what was promised", b"what is delivered"):
        order = market.buy_now("sports", "SWAPPED")
        for _ in range(2):
            with pytest.raises(UntrustedError, match="not what sports signed"):
                market.download(order.order_id, tmp_path)
            assert list(tmp_path.iterdir()) == []
        # Once, however often it came, and where nobody takes it for what was bought.
        (wrong,) = market.wrong_files(order.order_id)
        assert (wrong.sku, wrong.keys) == ("SWAPPED", False)
        assert wrong.sha256 == hashlib.sha256(b"what is delivered").hexdigest()
        assert wrong.path is not None
        assert list((home(market) / "wrong").iterdir()) == [wrong.path]
        assert (wrong.path.read_bytes(), wrong.path.stat().st_mode & 0o777) == (b"what is delivered", 0o600)
    shown = veilmart("order", "show", order.order_id, "--profile", home(market)).out
    assert f"SWAPPED\tcontent\t{wrong.sha256}\t{wrong.path}\n" in shown
    # A crash may leave a file of which no row tells.
    wrong.path.with_name("left-0").touch()
    with bazaar.again(market) as market:
        assert list((home(market) / "wrong").iterdir()) == [wrong.path]
        (file,) = market.download(order.order_id, tmp_path)
        assert file.path.read_bytes() == b"what was promised"
        assert market.wrong_files(order.order_id) == ()
        assert list((home(market) / "wrong").iterdir()) == []


def test_a_wrong_file_for_which_there_is_no_room_leaves_its_digest(
    bazaar: Bazaar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "move", full)
    with bazaar.customer() as market, spoiled(bazaar, PLAN, bytes(len(PLAN))):
        order = market.buy_now("sports", "PLAN")
        with pytest.raises(UntrustedError, match="not what sports signed"):
            market.download(order.order_id, tmp_path)
        (wrong,) = market.wrong_files(order.order_id)
        assert (wrong.path, len(wrong.sha256)) == (None, 64)
        assert list(tmp_path.iterdir()) == []
    assert "no room for it" in veilmart("order", "show", order.order_id, "--profile", home(market)).out


def test_nothing_to_download(bazaar: Bazaar, tmp_path: Path):
    bazaar.add("sports", "SOLD", 9, b"sold", stock=1)
    with bazaar.customer() as market:
        with pytest.raises(RejectedError):
            market.buy_now("sports", "SOLD", 2)
        with pytest.raises(RejectedError, match="nothing to download"):
            market.download(market.last_order().order_id, tmp_path)
        with pytest.raises(NotFoundError):
            market.receipt(market.last_order().order_id)
        order = market.buy_now("sports", "SOLD")
        with pytest.raises(UsageError, match="folder"):
            market.download(order.order_id)


# --- receipts ------------------------------------------------------------------------------------------


def test_a_receipt_says_what_was_ordered(bazaar: Bazaar, tmp_path: Path):
    with bazaar.customer() as market:
        market.cart.add("sports", "PLAN", 2)
        market.cart.add("sports", "ROUTE")
        (order,) = market.buy()
        receipt = market.receipt(order.order_id)
        assert [(line.sku, line.quantity, line.amount) for line in receipt.lines] == [
            ("PLAN", 2, 2468),
            ("ROUTE", 1, 77),
        ]
        assert (receipt.total, receipt.merchant, receipt.order_id) == (2545, "sports", order.order_id)
        assert market.export_receipt(order.order_id, tmp_path / "receipt.json") == receipt
        with pytest.raises(UsageError):
            market.export_receipt(order.order_id, tmp_path / "no" / "such" / "folder.json")
    with bazaar.customer(bundles=0) as another:
        assert another.verify_receipt(tmp_path / "receipt.json") == receipt


def test_every_change_to_a_receipt_is_found(bazaar: Bazaar, tmp_path: Path):
    path = tmp_path / "receipt.json"
    with bazaar.customer() as market:
        order = market.buy_now("sports", "PLAN")
        market.export_receipt(order.order_id, path)
        genuine = json.loads(path.read_bytes())
        other = market.buy_now("maps", "PLAN")
        market.export_receipt(other.order_id, tmp_path / "other.json")
        foreign = json.loads((tmp_path / "other.json").read_bytes())

        def refused(**changes: Any) -> None:
            path.write_text(json.dumps({**genuine, **changes}))
            with pytest.raises(UntrustedError):
                market.verify_receipt(path)

        receipt, signature = (base64.b64decode(genuine[name]) for name in ("receipt", "signature"))
        for position in range(len(receipt)):
            changed = receipt[:position] + bytes([receipt[position] ^ 1]) + receipt[position + 1 :]
            refused(receipt=base64.b64encode(changed).decode())
        for length in range(0, len(receipt), 7):
            refused(receipt=base64.b64encode(receipt[:length]).decode())
        for position in range(len(signature)):
            changed = signature[:position] + bytes([signature[position] ^ 1]) + signature[position + 1 :]
            refused(signature=base64.b64encode(changed).decode())
        refused(certificate=foreign["certificate"])
        refused(certificate=genuine["ca_certificate"])
        refused(certificate="nonsense")
        refused(order={**genuine["order"], "total": 1})
        refused(market="00" * 16)
        refused(extra=1)
        path.write_bytes(b"\xff" * 100)
        with pytest.raises(UntrustedError):
            market.verify_receipt(path)
        path.write_text(json.dumps(genuine))
        assert market.verify_receipt(path).total == 1234
        with pytest.raises(UsageError):
            market.verify_receipt(tmp_path / "none.json")


def test_a_receipt_of_another_market(bazaar: Bazaar, tmp_path: Path):
    other = build(tmp_path / "other", minimum_age_seconds=60)
    try:
        with other.customer(allow_young=True) as market:
            order = market.buy_now("sports", "PLAN")
            market.export_receipt(order.order_id, tmp_path / "receipt.json")
    finally:
        other.world.close()
    with bazaar.customer(bundles=0) as market, pytest.raises(UntrustedError):
        market.verify_receipt(tmp_path / "receipt.json")
