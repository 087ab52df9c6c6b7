"""Stores as they were at some revision of their schema."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import sqlalchemy as sa
from alembic import command
from alembic.config import Config


def bring_to(connection: sa.Connection, migrations: ModuleType, revision: str) -> None:
    """Run the migrations of a package up to `revision`."""
    config = Config()
    config.set_main_option("script_location", str(Path(str(migrations.__file__)).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
