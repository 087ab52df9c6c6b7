"""Delivery: what is paid for arrives byte for byte, and nothing else does."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from merchant_world import Identities, World, make_identities

from common import config, messages
from common.errors import ForgedError
from common.messages import FetchRefused
from common.sealing import AnswerKey

SECRET = bytes(range(32))
BIG = 3 * config.CELL_CONTENT + 17
CONTENT = {
    "tiny.txt": b"one line\n",
    "exact.bin": hashlib.shake_256(b"exact").digest(2 * config.CELL_CONTENT),
    "big.zip": hashlib.shake_256(b"big").digest(BIG),
    "empty.txt": b"",
}


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return make_identities(tmp_path_factory.mktemp("market"))


@pytest.fixture
def world(identities: Identities, tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, identities)
    for price, (name, content) in enumerate(CONTENT.items(), start=100):
        (tmp_path / name).write_bytes(content)
        world.inventory.add(tmp_path / name, name.split(".")[0], title=name, price=price)
    world.open_session()
    yield world
    world.close()


def bought(world: World, *skus: str) -> tuple[messages.ForwardOrder, messages.Receipt]:
    from common import codec  # noqa: PLC0415

    order, key = world.order(*((sku, 1) for sku in skus), fetch_secret=SECRET)
    (answer,) = world.ask(order)
    accepted: Any = key.unseal(answer.answer)
    return order, codec.RECEIPT.unpack(accepted.receipt)


def total(receipt: messages.Receipt) -> int:
    return sum(line.cells for line in receipt.lines)


def refusal(world: World, fetch: messages.ForwardFetch, key: AnswerKey) -> str:
    (answer,) = world.ask(fetch)
    assert isinstance(answer, FetchRefused)
    assert (answer.reference, answer.token) == (fetch.reference, fetch.token)
    reason = key.unseal(answer.answer)
    assert isinstance(reason, messages.RequestRefused)
    assert world.cells() == []
    return reason.code


def served(world: World, fetch: messages.ForwardFetch, key: AnswerKey) -> dict[int, bytes]:
    assert world.ask(fetch) == []
    groups = world.groups()
    assert {(group.reference, group.token) for group in groups} == {(fetch.reference, fetch.token)}
    cells = [cell for group in groups for cell in group.cells]
    assert {len(cell) for cell in cells} == {52 + config.CELL_CONTENT}
    assert len({cell[:32] for cell in cells}) == 1
    return dict(key.unseal_cell(cell) for cell in cells)


def test_cells_assemble_to_every_file_of_the_order(world: World) -> None:
    order, receipt = bought(world, "tiny", "exact", "big", "empty")
    world.captured(order)
    assert [line.cells for line in receipt.lines] == [1, 2, 4, 1]
    content: dict[int, bytes] = {}
    for first in range(0, total(receipt), 3):
        count = min(3, total(receipt) - first)
        content |= served(world, *world.fetch(order.order_id, first, count, secret=SECRET))
    assert sorted(content) == list(range(total(receipt)))
    for line in receipt.lines:
        cells = range(line.first_cell, line.first_cell + line.cells)
        whole = b"".join(content[index] for index in cells)
        assert whole[: line.size] == CONTENT[line.file_name]
        assert not any(whole[line.size :])
        assert hashlib.sha256(whole[: line.size]).digest() == line.digest


def test_an_order_is_delivered_when_its_last_cell_was_asked_for(world: World) -> None:
    order, receipt = bought(world, "big")
    world.captured(order)
    served(world, *world.fetch(order.order_id, 0, 3, secret=SECRET))
    assert world.state(order.order_id) == "captured"
    served(world, *world.fetch(order.order_id, 3, 1, secret=SECRET))
    assert world.state(order.order_id) == "delivered"
    again = served(world, *world.fetch(order.order_id, 0, total(receipt), secret=SECRET))
    assert len(again) == total(receipt)


def test_the_last_window_asked_for_twice_in_one_batch(world: World) -> None:
    order, _ = bought(world, "tiny")
    world.captured(order)
    first, _ = world.fetch(order.order_id, 0, 1, secret=SECRET)
    second, _ = world.fetch(order.order_id, 0, 1, secret=SECRET)
    assert world.ask(first, second) == []
    assert len(world.cells()) == 2
    assert world.state(order.order_id) == "delivered"


def test_several_orders_are_delivered_in_one_batch(world: World) -> None:
    orders = [bought(world, "tiny")[0] for _ in range(3)]
    for order in orders:
        world.captured(order)
    assert world.ask(*(world.fetch(order.order_id, 0, 1, secret=SECRET)[0] for order in orders)) == []
    assert [world.state(order.order_id) for order in orders] == ["delivered"] * 3


def test_each_request_has_its_own_stream(world: World) -> None:
    order, _ = bought(world, "tiny")
    world.captured(order)
    fetch, key = world.fetch(order.order_id, 0, 1, secret=SECRET)
    world.ask(fetch)
    (first,) = world.cells()
    world.ask(fetch)  # as the relay might
    (second,) = world.cells()
    assert first != second
    assert key.unseal_cell(first) == key.unseal_cell(second)


def test_several_downloads_take_turns(world: World) -> None:
    order, _ = bought(world, "big", "exact")
    world.captured(order)
    one, _ = world.fetch(order.order_id, 0, 2, secret=SECRET)
    two, _ = world.fetch(order.order_id, 2, 2, secret=SECRET)
    world.ask(one, two)
    references = [group.reference for group in world.groups()]
    assert references[0] != references[1]


def test_nothing_before_payment(world: World) -> None:
    order, _ = bought(world, "tiny")
    assert refusal(world, *world.fetch(order.order_id, 0, 1, secret=SECRET)) == "not_yet"


def test_nothing_after_it_is_void(world: World) -> None:
    order, _ = bought(world, "tiny")
    world.ask(messages.OrderOutcome(order_id=order.order_id, outcome="void"))
    assert refusal(world, *world.fetch(order.order_id, 0, 1, secret=SECRET)) == "wrong_state"


def test_nothing_for_another_secret(world: World) -> None:
    order, _ = bought(world, "tiny")
    world.captured(order)
    assert refusal(world, *world.fetch(order.order_id, 0, 1, secret=bytes(32))) == "wrong_secret"
    assert world.state(order.order_id) == "captured"


def test_nothing_for_an_order_that_could_not_be_opened(world: World) -> None:
    order, _ = world.order(("tiny", 1))
    world.ask(msgspec.structs.replace(order, amount=order.amount + 1))
    assert refusal(world, *world.fetch(order.order_id, 0, 1)) == "wrong_secret"


def test_nothing_for_an_unknown_order_or_beyond_its_end(world: World) -> None:
    order, receipt = bought(world, "tiny")
    world.captured(order)
    assert refusal(world, *world.fetch(bytes(16), 0, 1, secret=SECRET)) == "not_found"
    assert refusal(world, *world.fetch(order.order_id, total(receipt), 1, secret=SECRET)) == "not_found"
    assert refusal(world, *world.fetch(order.order_id, 0, 2, secret=SECRET)) == "not_found"


def test_the_relay_cannot_change_how_many_are_asked_for(world: World) -> None:
    order, _ = bought(world, "big")
    world.captured(order)
    fetch, _ = world.fetch(order.order_id, 0, 2, secret=SECRET)
    assert world.ask(msgspec.structs.replace(fetch, cells=3)) == []
    lying, _ = world.fetch(order.order_id, 0, 2, secret=SECRET, cells=1)
    assert world.ask(lying) == []
    assert world.cells() == []
    assert world.merchant.refused["forged"] == 2


def test_a_cell_opens_with_its_own_key_and_index_only(world: World) -> None:
    order, _ = bought(world, "big")
    world.captured(order)
    fetch, key = world.fetch(order.order_id, 1, 1, secret=SECRET)
    world.ask(fetch)
    (cell,) = world.cells()
    assert key.unseal_cell(cell)[0] == 1
    moved = cell[:35] + b"\x02" + cell[36:]
    with pytest.raises(ForgedError):
        key.unseal_cell(moved)
    _, other = world.fetch(order.order_id, 1, 1, secret=SECRET)
    with pytest.raises(ForgedError):
        other.unseal_cell(cell)


def test_what_was_sold_stays_after_edit_and_removal(world: World, tmp_path: Path) -> None:
    order, receipt = bought(world, "tiny")
    world.captured(order)
    (tmp_path / "new.txt").write_bytes(b"something else")
    world.inventory.edit("tiny", file=tmp_path / "new.txt")
    world.inventory.remove("tiny")
    (content,) = served(world, *world.fetch(order.order_id, 0, 1, secret=SECRET)).values()
    assert content[: receipt.lines[0].size] == CONTENT["tiny.txt"]


def test_a_lost_file_ends_its_download_and_nothing_else(world: World, tmp_path: Path) -> None:
    order, receipt = bought(world, "tiny", "big")
    world.captured(order)
    (tmp_path / "content" / receipt.lines[0].digest.hex()).unlink()
    world.ask(world.fetch(order.order_id, 0, 2, secret=SECRET)[0])
    assert world.cells() == []
    assert len(served(world, *world.fetch(order.order_id, 1, 2, secret=SECRET))) == 2


def test_a_download_takes_the_memory_of_a_few_cells(world: World, tmp_path: Path) -> None:
    with (tmp_path / "huge.bin").open("wb") as file:
        file.truncate(60 * config.CELL_CONTENT)
    world.inventory.add(tmp_path / "huge.bin", "huge", title="huge", price=7)
    world.tick()
    order, _ = bought(world, "huge")
    world.captured(order)
    world.ask(world.fetch(order.order_id, 0, 60, secret=SECRET)[0])
    (source,) = world.sources
    source.next_frame()
    tracemalloc.start()
    count = 1
    while source.next_frame() is not None:
        count += 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    world.sources.clear()
    assert count == 60 // config.CELLS_PER_FRAME
    assert peak < 7 * config.MAXIMUM_FRAME
