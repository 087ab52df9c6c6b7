"""Alembic scripts of the broker's store."""

HEAD = "0012"
