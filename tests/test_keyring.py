"""Slot keys: made ahead, one per slot, erased in time, and then nowhere."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import keyring
from common.keyring import Keyring, Schedule
from common.sealing import XWingPrivateKey
from common.slots import month_of, previous_month, slot_start

HOUR = 3_600_000
NOW = 1_800_000_000_000 + 17 * 60_000
SLOT = slot_start(NOW, HOUR)


class Key:
    """Stands for a private key."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw


def ring(folder: Path, ahead: int = 2, grace: int = HOUR // 2) -> Keyring[Key]:
    return Keyring(
        folder / "keys",
        Schedule(HOUR, ahead, grace),
        lambda: Key(os.urandom(32)),
        Key,
        lambda key: key.raw[:8],
    )


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_keys_are_made_ahead(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    assert keys.refresh(NOW)
    assert [slot for slot, _ in keys.from_now(NOW)] == [SLOT, SLOT + HOUR, SLOT + 2 * HOUR]
    assert keys.current(NOW) is dict(keys.from_now(NOW))[SLOT]
    assert keys.current(NOW + HOUR) is not keys.current(NOW)
    assert keys.end_of(SLOT) == SLOT + HOUR
    assert not keys.refresh(NOW + 1)


def test_a_slot_that_has_a_key_keeps_it(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    keys.refresh(NOW)
    before = {slot: key.raw for slot, key in keys.from_now(NOW)}
    for moment in (NOW, NOW + 1, NOW + HOUR, NOW - HOUR, NOW + HOUR):
        keys.refresh(moment)
    after = {slot: key.raw for slot, key in keys.from_now(NOW)}
    assert {slot: after[slot] for slot in before} == before
    again = ring(tmp_path)
    again.refresh(NOW)
    assert {slot: key.raw for slot, key in again.from_now(NOW)} == after


def test_one_key_per_slot(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    for hour in range(10):
        keys.refresh(NOW + hour * HOUR)
    names = [path.name for path in (tmp_path / "keys").iterdir()]
    assert len(set(names)) == len(names) == len(keys.by_id)
    assert all(name.endswith(".key") for name in names)


def test_an_erased_key_is_gone_from_every_file(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    keys.refresh(NOW)
    old = keys.current(NOW).raw
    assert old in everything_in(tmp_path)
    keys.refresh(SLOT + HOUR + HOUR // 2 - 1)
    assert old[:8] in keys.by_id, "grace lasts"
    assert keys.refresh(SLOT + HOUR + HOUR // 2)
    assert old[:8] not in keys.by_id
    assert old not in everything_in(tmp_path)
    with pytest.raises(KeyError):
        keys.current(NOW)


def test_after_a_long_absence_every_old_key_is_erased_at_once(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    keys.refresh(NOW)
    old = [key.raw for _, key in keys.from_now(NOW)]
    late = ring(tmp_path)
    late.refresh(NOW + 30 * 24 * HOUR)
    assert not any(raw in everything_in(tmp_path) for raw in old)
    assert len(late.by_id) == 3


def test_files_are_private_from_their_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    opened = os.open

    def watch(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            modes.append(mode)
        return opened(path, flags, mode)

    monkeypatch.setattr(keyring.os, "open", watch)
    old_mask = os.umask(0)
    try:
        ring(tmp_path).refresh(NOW)
    finally:
        os.umask(old_mask)
    assert modes == [0o600] * 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()} == {0o600}
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_a_crash_half_way_leaves_nothing_that_is_taken_for_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CrashError(Exception):
        pass

    def crash(*_: object) -> None:
        raise CrashError

    keys = ring(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(keyring.os, "fsync", crash)
        with pytest.raises(CrashError):
            keys.refresh(NOW)
    assert list((tmp_path / "keys").glob("*.key")) == []
    again = ring(tmp_path)
    assert again.by_id == {}
    again.refresh(NOW)
    assert len(again.by_id) == 3
    assert list((tmp_path / "keys").glob("*.partial")) == []


def test_what_a_crash_left_is_erased_however_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / f"{SLOT}.partial").write_bytes(b"a private key that was never used")
    (folder / "notes.txt").write_bytes(b"somebody's")
    keys = ring(tmp_path)
    keys.refresh(NOW + 24 * HOUR)
    assert b"never used" not in everything_in(tmp_path)
    assert (folder / "notes.txt").exists()


def test_real_keys_survive_a_restart(tmp_path: Path) -> None:
    def make() -> Keyring[XWingPrivateKey]:
        return Keyring(
            tmp_path,
            Schedule(HOUR, 1, 0),
            XWingPrivateKey.generate,
            XWingPrivateKey.from_bytes,
            lambda key: key.public.key_id,
        )

    first = make()
    first.refresh(NOW)
    assert make().by_id.keys() == first.by_id.keys()


@given(st.integers(0, 2**45), st.sampled_from([HOUR, 24 * HOUR]))
def test_a_slot_holds_its_moment(now: int, period: int) -> None:
    start = slot_start(now, period)
    assert start <= now < start + period
    assert start % period == 0


@given(st.integers(0, 4_000_000_000_000))
def test_months_follow_each_other(now: int) -> None:
    month = month_of(now)
    before = previous_month(month)
    assert before < month
    assert (int(month[:4]) * 12 + int(month[5:])) - (int(before[:4]) * 12 + int(before[5:])) == 1
