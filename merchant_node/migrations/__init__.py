"""Alembic scripts of the merchant's store."""

HEAD = "0007"
