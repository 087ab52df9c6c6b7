"""The profile's schema, step by step (Alembic)."""

HEAD = "0017"
