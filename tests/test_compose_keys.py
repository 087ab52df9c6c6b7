"""`compose-keys` without Docker: killed between two steps and within one, it goes on at its next start."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli import tree, veilmart
from readme import ROOT
from real_market import environment

from veilmart.demo.goods import SPORTS

# What the script calls: the real commands, after one of which the script is killed.
VEILMART = """#!/bin/sh
"$PYTHON" -m veilmart "$@"
case "$*" in ${KILLED_AFTER:-nothing}*) kill -9 $PPID;; esac
"""
PYTHON = """#!/bin/sh
[ "${KILLED_AFTER:-}" = stock ] || exec "$PYTHON" "$@"
"$PYTHON" -c "$HALF_STOCKED" "$4"
kill -9 $PPID
"""
HALF_STOCKED = """
import sys, tempfile
from pathlib import Path
from veilmart.demo.goods import SPORTS, make_files
from veilmart.demo.stock import stock
with tempfile.TemporaryDirectory() as folder:
    stock(Path(sys.argv[1]), SPORTS[:2], make_files(SPORTS[:2], Path(folder)))
"""


@dataclass(frozen=True)
class Keys:
    """The two volumes that the script fills, and a folder of its own."""

    root: Path

    @property
    def merchant(self) -> Path:
        return self.root / "merchant"

    def files(self) -> dict[str, tuple[int, bytes]]:
        return {
            f"{name}/{path}": what
            for name in ("market", "merchant")
            for path, what in tree(self.root / name).items()
        }

    def products(self) -> list[str]:
        listed = veilmart("merchant", "product", "list", "--home", self.merchant, "--json").data
        return sorted(each["sku"] for each in listed)

    @contextmanager
    def started(self, **more: str) -> Iterator[subprocess.Popen[str]]:
        own = {"VEILMART_HOME": "market", "MERCHANT_HOME": "merchant", "TMPDIR": "tmp"}
        variables = environment(
            **{name: str(self.root / folder) for name, folder in own.items()},
            PYTHON=sys.executable,
            HALF_STOCKED=HALF_STOCKED,
            **more,
        )
        process = subprocess.Popen(
            [ROOT / "scripts/compose-keys"],
            cwd=self.root,
            env=variables | {"PATH": f"{self.root / 'bin'}:{variables['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=10)

    def killed_after(self, step: str) -> None:
        with self.started(KILLED_AFTER=step) as process:
            said, _ = process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL, said
            assert "keys ready" not in said
        assert not (self.root / "tmp/ready").exists()

    def ready(self) -> None:
        with self.started() as process:
            assert process.stdout is not None
            said = [process.stdout.readline()]
            while said[-1] not in {"", "keys ready\n"}:
                said.append(process.stdout.readline())
            assert said[-1], said
            assert (self.root / "tmp/ready").exists()
        assert process.returncode == 0


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    for folder in ("bin", "tmp"):
        (tmp_path / folder).mkdir()
    for name, script in (("veilmart", VEILMART), ("python", PYTHON)):
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    return Keys(tmp_path)


@pytest.mark.exhaustive
def test_it_goes_on_where_it_was_killed(keys: Keys) -> None:
    keys.killed_after("ca sign")
    identity = (keys.merchant / "identity.key").read_bytes()
    certificate = (keys.root / "tmp/sports.crt").read_bytes()
    assert not (keys.merchant / "identity.crt").exists()
    keys.killed_after("stock")
    assert 0 < len(keys.products()) < len(SPORTS)
    keys.ready()

    assert (keys.merchant / "identity.key").read_bytes() == identity
    assert (keys.merchant / "identity.crt").read_bytes() == certificate
    assert keys.products() == sorted(item.sku for item in SPORTS)
    issued = veilmart("ca", "list", "--home", keys.root / "market/ca", "--json").data
    assert sorted(each["name"] for each in issued) == ["broker", "bus", "sports"]

    before = keys.files()
    keys.ready()
    assert keys.files() == before
