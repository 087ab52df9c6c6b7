"""Nothing that a reader may copy is run by nothing: every block, every program, every line with a command."""

from __future__ import annotations

import inspect
import itertools
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer
from cli import Terminal, veilmart
from customer_shop import PASSWORD, Bazaar, build, home
from readme import ROOT, blocks, documents, sections, text_of
from typer.core import TyperGroup
from typer.main import get_command

import customer_node
from common.errors import UnreachableError, VeilmartError
from customer_node import AsyncMarket, Market
from veilmart.cli.app import app
from veilmart.output import Output

RUN = {"sh", "python", "console"}


# --- every block has its test --------------------------------------------------------------------------


def called_for() -> set[str]:
    """The names of blocks that a test asks for."""
    text = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    return set(re.findall(r"""\b(?:block|sections|text_of|program|run)\("([\w ]+)"\)""", text))


def test_no_block_is_run_by_nothing() -> None:
    runnable = [block for block in blocks() if block.language in RUN]
    assert len(runnable) >= 10
    assert [block for block in runnable if block.name not in called_for()] == []
    named = [block.name for block in blocks() if block.name]
    assert len(named) == len(set(named))
    assert {block.language for block in blocks()} <= RUN


def commands() -> list[str]:
    """Every line of a document that calls the command: in a block, or set in by four spaces."""
    lines = [line for path in documents() for line in path.read_text().splitlines()]
    called = [line.removeprefix("    ").removeprefix("$ ") for line in lines]
    return sorted({line for line in called if line.startswith("veilmart ")})


def test_the_documents_have_commands() -> None:
    assert len(commands()) > 60


@cache
def tree() -> Any:
    return get_command(app)


@pytest.mark.parametrize("line", commands())
def test_every_command_is_taken_as_it_is_written(line: str, tmp_path: Path) -> None:
    written = shlex.split(line.replace("$VEILMART_HOME", str(tmp_path)), comments=True)[1:]
    words = list(itertools.takewhile(lambda word: word not in {">", "|", "&"}, written))
    command: Any = tree()
    name = "veilmart"
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        name, command, words = command.resolve_command(typer.Context(command), words)
    # Parsed, and not run: an option or a word too many or too few raises.
    given = [word for word in words if word != "--json"]
    with suppress(typer.Exit), command.make_context(name, given, obj=Output(as_json=True)):
        pass


# --- programs ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = build(tmp_path_factory.mktemp("bazaar"))
    built.add("sports", "PLAN-10K", 990, b"run, rest, run", "plan.md", stock=2)
    yield built
    built.world.close()


@pytest.fixture
def program(
    bazaar: Bazaar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Run a program of the documents, in a folder with what it says is there; gives what it printed."""

    class Connected(Market):
        def __init__(self, profile: Path, **more: Any) -> None:
            super().__init__(profile, connect=bazaar.world.connect, **more)

    class AsyncConnected(AsyncMarket):
        def __init__(self, profile: Path, **more: Any) -> None:
            super().__init__(profile, connect=bazaar.world.connect, **more)

    monkeypatch.chdir(tmp_path)
    bazaar.customers += 1
    name = f"customer{bazaar.customers}"
    Path("market.json").write_bytes(bazaar.world.market_path.read_bytes())
    Path("password").write_text(PASSWORD + "\n")
    # The programs name no bus: they get the one in memory.
    monkeypatch.setattr(customer_node, "Market", Connected)
    monkeypatch.setattr(customer_node, "AsyncMarket", AsyncConnected)
    Market.join(Path("profile"), Path("market.json"))
    with Connected(Path("profile")) as market:
        market.sign_up(name, PASSWORD)
        bazaar.world.fund(name, 4000)
        market.withdraw()

    def run(block: str) -> str:
        text = text_of(block).replace('"alice"', f'"{name}"')
        capsys.readouterr()
        with structlog.testing.capture_logs():
            exec(compile(text, block, "exec"), {"__name__": "__main__"})  # noqa: S102 - a document's own text
        return capsys.readouterr().out

    return run


def test_the_quick_start(program: Any, bazaar: Bazaar, tmp_path: Path) -> None:
    bazaar.world.merchants["sports"].inventory.edit("PLAN-10K", title="Ten kilometres", stock=2)
    printed = program("python market").splitlines()
    assert printed[0] == "sports PLAN-10K 990 EUR low"
    assert printed[1].split() == ["accepted", "None"]
    assert (printed[-2].split()[0], printed[-1]) == ("complete", "990")
    assert (tmp_path / "bought/plan.md").read_bytes() == b"run, rest, run"
    assert (tmp_path / "receipt.json").exists()


def test_the_quick_start_for_asyncio(program: Any, bazaar: Bazaar, tmp_path: Path) -> None:
    bazaar.world.merchants["sports"].inventory.edit("PLAN-10K", stock=2)
    printed = program("python async").splitlines()
    assert (printed[0], printed[-1]) == ("together 990 EUR", "14 of 14")
    assert (tmp_path / "bought/plan.md").read_bytes() == b"run, rest, run"


def test_the_program_that_reads_errors(program: Any, bazaar: Bazaar) -> None:
    inventory = bazaar.world.merchants["sports"].inventory
    inventory.edit("PLAN-10K", stock=5)
    assert program("python errors") == "it costs 990 and not 900\n"
    inventory.edit("PLAN-10K", price=900)
    assert program("python errors") == "700 too little in the wallet\n"
    inventory.edit("PLAN-10K", stock=2, price=600)
    inventory.edit("PLAN-10K", price=900, stock=0)
    assert program("python errors") == "only 0 left\n"
    inventory.edit("PLAN-10K", price=990, stock=2)


def test_the_program_that_gives_up_waiting(program: Any, bazaar: Bazaar) -> None:
    bazaar.world.merchants["sports"].inventory.edit("PLAN-10K", stock=2)
    assert program("python tasks") == "cart: 0\n"
    with customer_node.Market(Path("profile")) as market:
        (order,) = market.orders()
        assert order.idempotency_key == "friday"


# --- the wallet's commands -----------------------------------------------------------------------------


def test_the_wallets_commands(bazaar: Bazaar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with bazaar.customer() as market:
        name, words = home(market).name, market.words()
        market.log_out()
    monkeypatch.setattr("veilmart.cli.profiles.Market", partial(Market, connect=bazaar.world.connect))
    monkeypatch.chdir(tmp_path)
    Path("market.json").write_bytes(bazaar.world.market_path.read_bytes())
    answers = {"The wallet's words": " ".join(words), "Password": PASSWORD}

    def asked(prompt: str, **_: Any) -> str:
        return answers.get(prompt.removesuffix(": "), "a sentence that nobody guesses")

    monkeypatch.setattr("getpass.getpass", asked)
    (lines,) = sections("wallet")
    for line in lines:
        given = shlex.split(line.replace(" alice", f" {name}"), comments=True)[1:]
        profile = tmp_path / "empty" if "restore" in given else home(market)
        monkeypatch.setattr("sys.stdin", Terminal(""))
        ran = veilmart(*given, terminal=True, VEILMART_PROFILE=str(profile))
        assert ran.code == 0, (line, ran.err)
        assert all(word in ran.out for word in words) == ("backup" in given)
    assert Market.protection(home(market)) == Market.protection(tmp_path / "empty") == "passphrase"


# --- the table of errors -------------------------------------------------------------------------------


def attributes_of(kind: type[VeilmartError]) -> set[str]:
    """What an error has of its own: what it is made with, and the hop of a family that has one each."""
    own = set(inspect.signature(kind).parameters) - {"message", "hint", "maximum"}
    return own | ({"hop"} if issubclass(kind, UnreachableError) else set())


def test_the_table_of_errors_is_what_the_package_has() -> None:
    text = (ROOT / "docs/python.md").read_text()
    rows = re.findall(r"^\| `(\w+Error)` \| `(\w+)` \| (yes|no) \| ?([^|]*)\|$", text, re.MULTILINE)
    exported = [getattr(customer_node, name) for name in customer_node.__all__]
    kinds = [each for each in exported if isinstance(each, type) and issubclass(each, VeilmartError)]
    expected = {
        kind.__name__: (kind.code, "yes" if kind.retryable else "no", attributes_of(kind))
        for kind in kinds
        if kind is not VeilmartError
    }
    assert {
        name: (code, again, set(re.findall(r"`(\w+)`", cell))) for name, code, again, cell in rows
    } == expected
