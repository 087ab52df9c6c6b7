"""What a receipt has to say, whoever reads it: sums that add up, and lines that are their signed records.

Both are figures and words that one merchant signed. Where they contradict each other, its signatures alone
prove that it signed something wrong, to anybody who has its certificate.
"""

from __future__ import annotations

import hashlib

from common import codec, config, messages
from common.amounts import LineAmounts, line_amounts, total_of
from common.errors import ForgedError, RefusedError


def check_sums(receipt: messages.Receipt) -> list[LineAmounts]:
    """Work every figure out anew, and give those of the lines. Raises `ForgedError`."""
    try:
        lines = [
            line_amounts(line.unit_price, line.quantity, line.discount, line.tax.rate)
            for line in receipt.lines
        ]
        sums = total_of(lines)
    except RefusedError as error:
        raise ForgedError(f"a figure that cannot be: {error}") from error
    if [(line.amount, line.tax) for line in receipt.lines] != [(line.amount, line.tax) for line in lines]:
        raise ForgedError("a line that does not add up")
    shown = (receipt.subtotal, receipt.discount, receipt.taxes, receipt.total)
    if shown != (sums.subtotal, sums.discount, list(sums.taxes), sums.total):
        raise ForgedError("sums that are not those of the lines")
    return lines


def check_line(line: messages.ReceiptLine, packed: bytes, receipt: messages.Receipt) -> None:
    """Compare a line with the record that it names. Raises `ForgedError` naming what differs.

    `packed` is the record as signed; the caller has checked its signature and that `line.record` is its
    SHA-256. Raises `MalformedError` where it is no record.
    """
    record = codec.PRODUCT_RECORD.unpack(packed)
    pairs = {
        "merchant": (receipt.merchant, record.merchant),
        "currency": (receipt.currency, record.currency),
        "SKU": (line.sku, record.sku),
        "title": (line.title, record.title),
        "price": (line.unit_price, record.price),
        "tax rate": (line.tax.rate, record.tax_rate),
        "file name": (line.file_name, record.file_name),
        "size": (line.size, record.size),
        "content digest": (line.digest, record.digest),
        "number of cells": (line.cells, record.cells),
        "promise of licence keys": (has_keys(line), record.keys),
    }
    for name, (said, signed) in pairs.items():
        if said != signed:
            raise ForgedError(f"the {name} of {line.sku} is another than in its signed record")


def has_keys(line: messages.ReceiptLine) -> bool | None:
    """Tell whether a line delivers licence keys; None where it says neither yes nor no."""
    match line.keys_size, len(line.keys_digest):
        case 0, 0:
            return False
        case size, 32 if size > 0:
            return True
        case _:
            return None


def cells_needed(size: int, *, keys: bool) -> int:
    """How many cells a content of `size` bytes takes; keys take one more, the empty content alone one."""
    return max(1, -(-size // config.CELL_CONTENT) + keys)


def digest_of(packed: bytes) -> bytes:
    """Give what a line names a record by: SHA-256 of it as signed."""
    return hashlib.sha256(packed).digest()
