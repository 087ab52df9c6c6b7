"""A value is found however it is spelled, and two heaps of evidence show what they have in common."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import codec
from veilmart.evidence import COMMON, Evidence, shared

SPELLINGS: dict[str, Callable[[bytes], bytes | str]] = {
    "raw": bytes,
    "hex": bytes.hex,
    "HEX": lambda value: value.hex().upper(),
    "base64": base64.b64encode,
    "base64 for URLs": base64.urlsafe_b64encode,
    "base64 in lines": base64.encodebytes,
    "repr": repr,
    "JSON of a repr": lambda value: json.dumps({"error": repr({value: 1})}),
    "JSON as latin-1": lambda value: json.dumps(value.decode("latin-1")),
}
quoted = st.lists(st.sampled_from([b"'", b'"', b"\\", b"\n", b"\0", b"a"]), max_size=3).map(b"".join)


@pytest.mark.parametrize("spelling", SPELLINGS)
@given(value=st.binary(min_size=6, max_size=80), before=quoted, after=quoted)
def test_a_value_is_found_in_every_spelling(spelling: str, value: bytes, before: bytes, after: bytes):
    evidence = Evidence("party")
    evidence.add("place", SPELLINGS[spelling](before + value + after))
    assert {finding.place for finding in evidence.search({"value": value})} == {"place"}


@given(text=st.text(alphabet=st.characters(codec="utf-8"), min_size=4))
def test_a_text_is_found_in_json(text: str):
    evidence = Evidence("party")
    evidence.add("place", json.dumps({"title": text}))
    assert evidence.search({"text": text}) != []


def test_what_is_not_there_is_not_found_and_what_is_too_short_not_looked_for():
    evidence = Evidence("party")
    evidence.add("place", b"something else altogether")
    assert evidence.search({"value": b"something other"}) == []
    with pytest.raises(ValueError, match="too short"):
        evidence.search({"value": b"abc"})


def test_a_home_is_read_file_by_file_and_a_store_value_by_value(tmp_path: Path):
    with closing(sqlite3.connect(tmp_path / "node.db")) as store, store:
        store.execute("CREATE TABLE names (name, number)")
        store.execute("INSERT INTO names VALUES (?, ?)", ("rosalind", 1))
    (tmp_path / "other.db").write_bytes(b"no SQLite, but gertrude")
    evidence = Evidence("node")
    evidence.add_home(tmp_path)
    found = {(each.value, each.place) for each in evidence.search({"1": "rosalind", "2": "gertrude"})}
    assert found == {("1", "store names"), ("1", "file node.db"), ("2", "file other.db")}


@given(
    secret=st.binary(min_size=COMMON, max_size=40).filter(lambda value: len(set(value)) > 4),
    spelling=st.sampled_from([bytes, bytes.hex, lambda value: codec.pack([1, value])]),
)
def test_what_two_heaps_have_in_common_is_found(secret: bytes, spelling: Callable[[bytes], bytes | str]):
    one, other, known = Evidence("one"), Evidence("other"), Evidence("known")
    one.add_values("here", ["x", {"key": secret}])
    other.add_values("there", [[spelling(secret)]])
    assert {(each.place, each.other_place) for each in shared(one, other, known)} == {("here", "there")}
    known.add_values("public", [secret])
    assert shared(one, other, known) == []


def test_a_number_of_eight_bytes_counts_and_a_smaller_one_does_not():
    one, other = Evidence("one"), Evidence("other")
    for evidence in (one, other):
        evidence.add_values("numbers", [7, 2**31, 1_800_000_000_000])
    assert [each.content for each in shared(one, other, Evidence("known"))] == [
        (1_800_000_000_000).to_bytes(8, "big")
    ]
