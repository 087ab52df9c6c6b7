"""What a customer claims to have got of an order, for operator and merchant: labelled as unproven."""

from __future__ import annotations

from typing import Any, Final

from common import messages

CLAIMED: Final = "the customer claims, unproven"


def told(arrived: messages.Arrived | None) -> list[str]:
    """Put a claim into words, a line each."""
    if arrived is None:
        return []
    files = [f"{_file(each)} came with SHA-256 {each.digest.hex()}" for each in arrived.wrong]
    return [f"{arrived.cells} of {arrived.expected} cells came", *files]


def data_of(arrived: messages.Arrived | None) -> dict[str, Any] | None:
    """Give a claim to scripts."""
    if arrived is None:
        return None
    return {
        "proven": False,
        "cells": arrived.cells,
        "expected": arrived.expected,
        "wrong": [
            {"sku": each.sku, "keys": each.keys, "sha256": each.digest.hex()} for each in arrived.wrong
        ],
    }


def _file(wrong: messages.WrongFile) -> str:
    return f"the licence keys of {wrong.sku}" if wrong.keys else f"the content of {wrong.sku}"
