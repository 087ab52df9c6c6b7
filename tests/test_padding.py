"""Padding: nothing of the content is lost, and the length says the class alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import padding
from common.config import FRAME_SIZES, MAXIMUM_FRAME
from common.errors import MalformedError

contents = st.binary(max_size=3000)


@given(contents, st.integers(0, 500))
def test_padding_is_undone(content: bytes, more: int) -> None:
    padded = padding.pad(content, len(content) + 4 + more)
    assert len(padded) == len(content) + 4 + more
    assert padding.unpad(padded) == content


@given(contents, st.integers(5, 2048))
def test_steps(content: bytes, step: int) -> None:
    padded = padding.pad_to_step(content, step)
    assert len(padded) % step == 0
    assert len(content) + 4 <= len(padded) < len(content) + 4 + step
    assert padding.unpad(padded) == content


@given(st.integers(0, MAXIMUM_FRAME), st.integers(0, 2000))
def test_the_ladder_gives_the_smallest_size_that_fits(length: int, overhead: int) -> None:
    if length + 4 + overhead > MAXIMUM_FRAME:
        with pytest.raises(ValueError, match="fit into none"):
            padding.pad_to_ladder(bytes(length), FRAME_SIZES, overhead)
        return
    whole = len(padding.pad_to_ladder(bytes(length), FRAME_SIZES, overhead)) + overhead
    assert whole in FRAME_SIZES
    assert all(size < length + 4 + overhead for size in FRAME_SIZES if size < whole)


@given(st.integers(0, 100), st.integers(0, 103))
def test_what_does_not_fit_is_a_mistake_of_ours(length: int, size: int) -> None:
    if size < length + 4:
        with pytest.raises(ValueError, match="do not fit"):
            padding.pad(bytes(length), size)


@given(st.binary(max_size=64))
def test_any_bytes_unpad_or_are_malformed(data: bytes) -> None:
    try:
        content = padding.unpad(data)
    except MalformedError:
        return
    assert data[4 : 4 + len(content)] == content
    assert int.from_bytes(data[:4], "big") == len(content)


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0", b"\0\0\0\1", b"\xff\xff\xff\xff" + bytes(100)])
def test_a_length_that_lies_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        padding.unpad(data)
