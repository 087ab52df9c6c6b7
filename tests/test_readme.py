"""The README's own words: its session by hand, its line of plain MQTT, its Python, its table of codes."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest
import structlog
from cli import Terminal, veilmart
from customer_shop import PASSWORD
from readme import ROOT, sections, text_of
from real_market import RealMarket, environment
from world import World

import customer_node
from common import errors
from common.errors import VeilmartError
from customer_node import Market
from mosquitto import free_ports
from veilmart import output
from veilmart.demo.goods import SPORTS, make_files

README = (ROOT / "README.md").read_text()
PATIENCE_S = 60.0


def found(pattern: str) -> str:
    match = re.search(pattern, README, re.DOTALL | re.MULTILINE)
    assert match is not None, f"the README has nothing like {pattern!r}"
    return match[1]


SESSION = text_of("first session")


# --- by hand -------------------------------------------------------------------------------------------


class Terminals:
    """Shells in one folder, each with the variable that the README tells everybody to set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.export = found(r"In each of them `(export VEILMART_HOME=[^`]+)`")

    def started(self, line: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", f"{self.export}\n{line}"],
            cwd=self.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def ran(self, line: str) -> str:
        """Run a line to its end; gives what it printed."""
        with self.started(line) as shell:
            out, err = shell.communicate(timeout=PATIENCE_S)
        assert shell.returncode == 0, (line, out, err)
        return out

    @contextmanager
    def running(self, line: str) -> Iterator[subprocess.Popen[str]]:
        """Keep a line running, and end it as Ctrl-C does: the shell, and what it runs."""
        with self.started(line) as shell:
            try:
                yield shell
            finally:
                if shell.poll() is None:
                    os.killpg(shell.pid, signal.SIGINT)
                    try:
                        shell.communicate(timeout=PATIENCE_S)
                    except subprocess.TimeoutExpired:
                        os.killpg(shell.pid, signal.SIGKILL)
                        shell.communicate()

    def follow(self, line: str, stack: ExitStack) -> None:
        """Do what a person does with a line of the README."""
        if line.endswith(" run"):
            shell = stack.enter_context(self.running(line))
            assert " ready: " in said(shell.stdout)
        else:
            self.ran(line)


def said(stream: IO[str] | None) -> str:
    """Give the next line of a stream."""
    assert stream is not None
    assert select.select([stream], [], [], PATIENCE_S)[0], "nothing was said"
    return stream.readline()


def heard(stream: IO[str] | None) -> tuple[str, list[Any]]:
    """Give the next publish: its topic, and its events, which are one or a batch of a line each."""
    assert stream is not None
    topic, _, text = said(stream).partition(" ")
    while text.startswith("[") and not text.endswith("]\n"):
        text += stream.readline()  # the rest of one publish: it is there, or about to be
    content = json.loads(text)
    return topic, content if isinstance(content, list) else [content]


def test_by_hand_in_five_terminals(tmp_path: Path) -> None:
    market, broker, merchant, customer, watcher = sections("by hand")
    terminals = Terminals(tmp_path)
    public, nodes = (str(port) for port in free_ports(2))
    # The only change to what is written: the ports, which somebody may be using here.
    assert market[0].startswith("veilmart init ")
    market[0] += f" --public-port {public} --node-port {nodes}"
    plain = found(r"^    (mosquitto_sub .* -t 'veilmart/v1/audit/#')$")
    assert " -p 8883 " in plain
    with ExitStack() as stack:
        for line in (*market, *broker, *merchant):
            terminals.follow(line, stack)
        subscriber = stack.enter_context(terminals.running(plain.replace(" -p 8883 ", f" -p {public} ")))
        watching = stack.enter_context(terminals.running("\n".join(watcher)))
        assert said(watching.stderr) == "watching\n"
        for line in customer:
            terminals.follow(line, stack)

        topic, events = heard(subscriber.stdout)
        shown, _ = watching.communicate(timeout=PATIENCE_S)
    assert (tmp_path / "bought" / "plan.md").read_text() == "eight weeks to ten kilometres\n"
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    assert "sports" in json.dumps(receipt)
    assert watching.returncode == 0
    assert "merchant sports\tonline" in shown
    assert [line.count("veilmart.") > 0 for line in shown.splitlines()[-2:]] == [True, True]
    assert topic.startswith("veilmart/v1/audit/event/")
    assert {event["specversion"] for event in events} == {"1.0"}


# --- the first session ---------------------------------------------------------------------------------


def in_general(said: str, folder: Path) -> list[str]:
    """Lines without what differs from run to run: ids, times, the width of columns, the current folder."""
    for pattern, stands_for in ((re.escape(f"{folder}/"), ""), ("[0-9a-f]{32,64}", "ID"), (TIME, "TIME")):
        said = re.sub(pattern, stands_for, said)
    return [" ".join(line.split()) for line in said.splitlines()]


TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}\+0000"


def test_the_first_session(real_market: RealMarket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goods = next(item for item in SPORTS if item.sku == "GPX-RIDGE")
    path = make_files((goods,), tmp_path)[goods.sku]
    shop = ("merchant", "product")
    more = ("--title", goods.title, "--price", "4.50", "--category", goods.category)
    assert real_market.ran(*shop, "add", path, "--sku", goods.sku, *more).code == 0
    customer = real_market.customer(tmp_path / "visitor")
    monkeypatch.chdir(tmp_path)
    printed: list[str] = []
    for part in SESSION.removeprefix("$ ").split("\n$ "):
        command, _, shown = part.partition("\n")
        answer = "y" if "? [y/N] y\n" in shown else ""
        monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))
        home = {"home": real_market.home, "VEILMART_PROFILE": str(customer)}
        ran = veilmart(*shlex.split(command)[1:], **home)
        assert ran.code == 0, (command, ran.err)
        asked = [ran.err.strip() + f" {answer}"] if answer else []
        printed += in_general("\n".join([f"$ {command}", *asked, ran.out]), tmp_path)
    assert printed == in_general(SESSION, tmp_path)
    assert real_market.ran(*shop, "remove", goods.sku).code == 0


# --- from a program ------------------------------------------------------------------------------------


@pytest.fixture
def program(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[], str]:
    """What the README's program prints: in a folder with a profile that has joined and has coins."""
    node = world.add_merchant("sports")
    plan = tmp_path / "plan.md"
    plan.write_text("run, rest, run")
    node.inventory.add(plan, "PLAN-10K", title="Ten kilometres", price=990, stock=1)
    monkeypatch.chdir(tmp_path)
    connected = partial(Market, connect=world.connect)
    Market.join(Path("profile"), world.market_path)
    with connected(Path("profile")) as market:
        market.sign_up("alice", PASSWORD)
        world.fund("alice", 2000)
        market.withdraw()
    # The program names no bus: it gets the one in memory.
    monkeypatch.setattr(customer_node, "Market", connected)
    code = compile(text_of("program"), "README.md", "exec")

    capsys.readouterr()

    def run() -> str:
        # The nodes, which are in this process too, log by themselves.
        with structlog.testing.capture_logs():
            exec(code, {"__name__": "__main__"})  # noqa: S102 - the README's own text
        return capsys.readouterr().out

    return run


def test_the_program_buys_once(program: Callable[[], str], tmp_path: Path) -> None:
    printed = program()
    path, digest = printed.split()
    assert (tmp_path / path).read_text() == "run, rest, run"
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert program() == printed, "the same key is the same order"
    with customer_node.Market(Path("profile")) as market:
        assert market.wallet().usable == 2000 - 990


def test_the_program_is_told_what_is_left(program: Callable[[], str], world: World) -> None:
    world.merchants["sports"].inventory.edit("PLAN-10K", stock=0)
    assert program() == "only 0 left\n"


# --- what scripts rely on ------------------------------------------------------------------------------


def families(kind: type[VeilmartError]) -> Iterator[type[VeilmartError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from families(below)


def test_the_table_of_exit_codes_is_what_the_code_has() -> None:
    table = {}
    for code, cell in re.findall(r"^\| (\d+) \| [^|]+ \|([^|]*)\|$", README, re.MULTILINE):
        table.update({name: int(code) for name in re.findall(r"`([a-z_]+)`", cell)})
    real = {
        kind.code: kind.exit_code
        for kind in families(VeilmartError)
        if kind.__module__ in {errors.__name__, output.__name__}
    }
    # A family's name, of which nothing is raised.
    assert real.pop("unreachable") == 6
    assert table == real
