"""Each store's migrations are one line from nothing to the tables that the code works with."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from common.store import Store

NODES = ("broker_node", "customer_node", "merchant_node")


@pytest.mark.parametrize("node", NODES)
def test_there_is_one_newest_migration_and_it_is_the_head(node: str) -> None:
    package = import_module(f"{node}.migrations")
    config = Config()
    config.set_main_option("script_location", str(Path(str(package.__file__)).parent))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [package.HEAD]
    assert len(list(scripts.walk_revisions())) == len(
        list((Path(str(package.__file__)).parent / "versions").glob("[0-9]*.py"))
    )


@pytest.mark.parametrize("node", NODES)
def test_the_migrated_store_has_the_schemas_tables_and_columns(node: str, tmp_path: Path) -> None:
    store = Store.in_home(tmp_path, "store.db", f"{node}.migrations")
    store.close()
    expected = import_module(f"{node}.schema").metadata
    engine = sa.create_engine(store.url)
    found = sa.MetaData()
    found.reflect(engine)
    engine.dispose()
    tables = {name: set(table.columns.keys()) for name, table in found.tables.items()}
    tables.pop("alembic_version")
    assert tables == {name: set(table.columns.keys()) for name, table in expected.tables.items()}
