"""Grouping and the replay filter."""

from __future__ import annotations

import os
import random as pseudo
from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import codec, config, frames, grouping, messages
from common.errors import ReplayedError, StaleError

NOW = 1_800_000_000_000
WINDOW = 5 * config.MINUTE_MS


def ask(size: int = 64) -> messages.AskMerchant:
    return messages.AskMerchant(request=os.urandom(16), merchant="sports", sealed=os.urandom(size))


# --- grouping ------------------------------------------------------------------------------------------


@given(st.lists(st.integers(32, 9000), max_size=150))
def test_every_message_travels_once_within_the_bounds(sizes: list[int]) -> None:
    bodies = [ask(size) for size in sizes]
    plaintexts = grouping.pack_frames(bodies, NOW, os.urandom)
    envelopes = []
    for plaintext in plaintexts:
        group = codec.FROM_SHOP.unpack(plaintext)
        assert 1 <= len(group) <= config.MAXIMUM_MESSAGES_PER_FRAME
        assert len(plaintext) <= grouping.GROUP_ROOM
        envelopes += group
    assert Counter(envelope.body for envelope in envelopes) == Counter(bodies)
    assert {envelope.at for envelope in envelopes} <= {NOW}
    assert len({envelope.id for envelope in envelopes}) == len(bodies)


def test_few_frames_hold_many_messages() -> None:
    assert len(grouping.pack_frames([ask() for _ in range(64)], NOW, os.urandom)) == 1
    assert len(grouping.pack_frames([ask() for _ in range(65)], NOW, os.urandom)) == 2
    assert grouping.pack_frames([], NOW, os.urandom) == []


def test_a_group_fits_a_frame_of_64_kib_and_a_large_message_has_a_larger_one() -> None:
    room = frames.content_room(64 * config.KIB)
    for plaintext in grouping.pack_frames([ask(9000) for _ in range(40)], NOW, os.urandom):
        assert len(plaintext) <= room
    (large,) = grouping.pack_frames([ask(config.MAXIMUM_SEALED)], NOW, os.urandom)
    assert room < len(large) <= frames.content_room(65 * config.KIB)
    assert len(grouping.pack_frames([ask(config.MAXIMUM_SEALED) for _ in "123"], NOW, os.urandom)) == 3


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 64])
def test_array_heads_are_msgpack(count: int) -> None:
    (plaintext,) = grouping.pack_frames([ask(32) for _ in range(count)], NOW, os.urandom)
    assert len(codec.FROM_SHOP.unpack(plaintext)) == count


@given(st.integers(0, 200), st.randoms(use_true_random=False))
def test_a_shuffle_is_a_permutation(count: int, source: pseudo.Random) -> None:
    assert sorted(grouping.shuffled(count, source.randbytes)) == list(range(count))


def test_every_order_is_about_equally_likely() -> None:
    source = pseudo.Random(7)  # noqa: S311 - the same each time, so that a failure repeats
    rounds = 24 * 400
    seen = Counter(tuple(grouping.shuffled(4, source.randbytes)) for _ in range(rounds))
    assert seen.keys() == set(permutations(range(4)))
    # Chi squared with 23 degrees of freedom: 49.7 is exceeded once in a thousand runs.
    expected = rounds / 24
    assert sum((count - expected) ** 2 / expected for count in seen.values()) < 49.7


def test_messages_leave_in_another_order_than_they_came() -> None:
    bodies = [ask(32) for _ in range(40)]
    (plaintext,) = grouping.pack_frames(bodies, NOW, os.urandom)
    left = [envelope.body for envelope in codec.FROM_SHOP.unpack(plaintext)]
    assert left != bodies
    assert sorted(left, key=lambda body: body.request) == sorted(bodies, key=lambda body: body.request)


# --- the replay filter ---------------------------------------------------------------------------------


def test_an_id_is_new_once() -> None:
    seen = grouping.SeenIds(WINDOW)
    seen.check(b"1" * 16, NOW, NOW)
    seen.add([b"1" * 16], NOW)
    with pytest.raises(ReplayedError):
        seen.check(b"1" * 16, NOW, NOW)
    seen.check(b"2" * 16, NOW, NOW)


def test_an_id_is_new_once_within_a_batch_and_again_if_that_was_lost() -> None:
    seen = grouping.SeenIds(WINDOW)
    seen.check(b"1" * 16, NOW, NOW)
    with pytest.raises(ReplayedError):
        seen.check(b"1" * 16, NOW, NOW)
    seen.add([], NOW)
    seen.check(b"1" * 16, NOW, NOW)


@pytest.mark.parametrize("off", [-WINDOW - 1, WINDOW + 1, -(10**12), 10**12])
def test_outside_the_window_everything_is_stale(off: int) -> None:
    with pytest.raises(StaleError):
        grouping.SeenIds(WINDOW).check(b"1" * 16, NOW + off, NOW)


@pytest.mark.parametrize("off", [-WINDOW, 0, WINDOW])
def test_the_window_includes_its_ends(off: int) -> None:
    grouping.SeenIds(WINDOW).check(b"1" * 16, NOW + off, NOW)


@given(
    st.lists(
        st.tuples(st.integers(0, 3 * WINDOW // 4), st.integers(0, 5), st.integers(-2 * WINDOW, 2 * WINDOW)),
        max_size=60,
    )
)
def test_no_send_is_accepted_twice_however_time_goes_on(steps: list[tuple[int, int, int]]) -> None:
    seen, now = grouping.SeenIds(WINDOW), NOW
    sends: dict[int, tuple[bytes, int]] = {}
    accepted: Counter[bytes] = Counter()
    for passed, which, dated in steps:
        now += passed
        identifier, at = sends.setdefault(which, (bytes([which]) * 16, now + dated))
        try:
            seen.check(identifier, at, now)
        except (ReplayedError, StaleError):
            continue
        seen.add([identifier], now)
        accepted[identifier] += 1
    assert set(accepted.values()) <= {1}


def test_memory_is_bounded_by_the_window() -> None:
    seen, now = grouping.SeenIds(WINDOW), NOW
    for n in range(2000):
        now += WINDOW // 50
        seen.add([n.to_bytes(16, "big")], now)
    assert sum(len(bucket) for bucket in seen._buckets.values()) <= 3 * 50
