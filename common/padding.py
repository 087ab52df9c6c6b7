"""Padding: the length of what travels says which size class it is of, and no more.

    padded = u32 length || content || zeros

Rule. Padding stands inside the encryption, so its zeros need no check of their own.
"""

from __future__ import annotations

from common.errors import MalformedError

_PREFIX = 4


def pad(content: bytes, size: int) -> bytes:
    """Pad `content` to exactly `size` bytes. Raises `ValueError` where it does not fit: a mistake of ours."""
    if len(content) + _PREFIX > size:
        raise ValueError(f"{len(content)} bytes do not fit into a padded size of {size}")
    return b"".join((len(content).to_bytes(_PREFIX, "big"), content, bytes(size - _PREFIX - len(content))))


def pad_to_step(content: bytes, step: int) -> bytes:
    """Pad to the next multiple of `step`."""
    return pad(content, -(-(len(content) + _PREFIX) // step) * step)


def pad_to_ladder(content: bytes, sizes: tuple[int, ...], overhead: int) -> bytes:
    """Pad so that content and `overhead` together have one of `sizes`, which rise."""
    for size in sizes:
        if len(content) + _PREFIX + overhead <= size:
            return pad(content, size - overhead)
    raise ValueError(f"{len(content)} bytes fit into none of the frame sizes")


def unpad(padded: bytes) -> bytes:
    """Give the content back. Raises `MalformedError`."""
    if len(padded) < _PREFIX:
        raise MalformedError("padding too short")
    length = int.from_bytes(padded[:_PREFIX], "big")
    if length > len(padded) - _PREFIX:
        raise MalformedError("padding claims more than there is")
    return padded[_PREFIX : _PREFIX + length]
