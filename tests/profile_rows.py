"""Reads a customer's profile as its owner could: sealed columns opened with the plain seed beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from common import clock
from customer_node.profile import SEED_FILE, open_store


def profile_rows(profile: Path, *columns: Any) -> list[tuple[Any, ...]]:
    """Give columns of one of the schema's tables."""
    store = open_store(profile, (profile / SEED_FILE).read_bytes(), clock.random_bytes)
    try:
        with store.immediate() as tx:
            return [tuple(row.values()) for row in tx.all(sa.select(*columns))]
    finally:
        store.close()
