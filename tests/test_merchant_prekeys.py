"""Prekeys: made ahead, published, erased in time; what they opened is closed for good."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from merchant_world import Identities, World, make_identities

from common.config import DAY_MS, HOUR_MS, MINUTE_MS
from common.messages import GetProduct
from common.slots import slot_start


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return make_identities(tmp_path_factory.mktemp("market"))


@pytest.fixture
def world(identities: Identities, tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, identities)
    (tmp_path / "plan.pdf").write_bytes(b"ten kilometres")
    world.inventory.add(tmp_path / "plan.pdf", "plan", title="Plan", price=999)
    world.open_session()
    yield world
    world.close()


def files_with(home: Path, secret: bytes) -> list[Path]:
    """Every file of the home in which the secret stands, raw, in hex, or in part."""
    needles = (secret, secret.hex().encode(), secret[:32], secret[-32:])
    return [
        path
        for path in home.rglob("*")
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    ]


def test_the_card_shows_this_hour_and_the_next_and_fourteen_days(world: World) -> None:
    card = world.card
    assert card is not None
    hour, day = slot_start(world.now, HOUR_MS), slot_start(world.now, DAY_MS)
    assert [key.slot for key in card.browse_prekeys] == [hour, hour + HOUR_MS]
    assert [key.slot for key in card.order_prekeys] == [day + n * DAY_MS for n in range(14)]
    assert card.not_after == day + 14 * DAY_MS
    assert len({key.public for key in (*card.browse_prekeys, *card.order_prekeys)}) == 16


def test_prekeys_are_private_files(world: World) -> None:
    keys = list((world.home / "prekeys").rglob("*.key"))
    assert len(keys) == 16
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}


def test_a_request_to_the_next_hours_prekey_opens(world: World) -> None:
    forward, key = world.forward(GetProduct(sku="plan"))
    world.tick(HOUR_MS + 30 * MINUTE_MS)
    (answer,) = world.ask(forward)
    assert key.unseal(answer.answer)


@pytest.mark.parametrize(
    ("folder", "slot_ms", "life_ms"),
    [("browse", HOUR_MS, 2 * HOUR_MS), ("order", DAY_MS, 2 * DAY_MS + 10 * MINUTE_MS)],
)
def test_an_erased_prekey_is_in_no_file_of_the_home(
    world: World, folder: str, slot_ms: int, life_ms: int
) -> None:
    slot = slot_start(world.now, slot_ms)
    path = world.home / "prekeys" / folder / f"{slot}.key"
    secret = path.read_bytes()
    assert len(secret) == 96
    order, _ = world.order(("plan", 1))
    world.ask(order)
    assert files_with(world.home, secret) == [path]
    world.tick(slot + life_ms - 1 - world.now)
    assert path.exists()
    world.tick(1)
    assert files_with(world.home, secret) == []
    with world.store.immediate() as tx:
        tx.flush()
    world.start()
    world.tick()
    assert files_with(world.home, secret) == []


def test_an_order_opens_to_the_end_of_its_deadline_and_not_after(world: World) -> None:
    day = slot_start(world.now, DAY_MS)
    early, key = world.order(("plan", 1), deadline=day + 3 * DAY_MS)
    late, _ = world.order(("plan", 1), deadline=day + 3 * DAY_MS)
    world.tick(day + 2 * DAY_MS + 10 * MINUTE_MS - 1 - world.now)
    world.open_session()
    (answer,) = world.ask(early)
    assert answer.verdict == "accepted"
    assert key.unseal(answer.answer)
    world.tick(1)
    (answer,) = world.ask(late)
    assert (answer.verdict, answer.answer) == ("rejected", b"")


def test_a_repeated_order_is_answered_after_its_prekey_is_gone(world: World) -> None:
    order, _ = world.order(("plan", 1))
    (first,) = world.ask(order)
    world.tick(3 * DAY_MS)
    world.open_session()
    (again,) = world.ask(order)
    assert again == first


def test_browsing_with_an_erased_prekey_is_dropped(world: World) -> None:
    forward, _ = world.forward(GetProduct(sku="plan"))
    world.tick(2 * HOUR_MS)
    assert world.ask(forward) == []
    assert world.merchant.refused["forged"] == 1


def test_a_new_slot_brings_a_new_card(world: World) -> None:
    before = world.card
    world.tick(HOUR_MS)
    after = world.read_card()
    assert before is not None
    assert after.browse_prekeys[0] == before.browse_prekeys[1]
    assert after.order_prekeys == before.order_prekeys
