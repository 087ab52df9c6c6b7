"""`veilmart demo` as one types it: what it reports, and what is left of it however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import HTTPCookieProcessor, build_opener

import pytest
from readme import ROOT
from real_market import call, environment

from common import clock
from mosquitto import free_ports
from veilmart.init import init_market

PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all: each test is one more run of the demo there."""
    return tmp_path_factory.mktemp("demo") / "state"


class Demo:
    """A demo that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def until(self, words: str, *, stream: str = "stderr") -> list[str]:
        """Give what it says up to the line with these words."""
        source = getattr(self.process, stream)
        said: list[str] = []
        while not said or words not in said[-1]:
            line = source.readline()
            assert line, (said, self.process.poll())
            said.append(line)
        return said

    def nodes(self) -> set[int]:
        """Give the processes that it started, and those that they started."""
        return descendants(self.process.pid)


def children(pid: int) -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found |= set(map(int, (task / "children").read_text().split()))
    return found


def descendants(pid: int) -> set[int]:
    found = children(pid)
    return found.union(*map(descendants, found))


def alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids: set[int]) -> bool:
    """Wait until none of these processes is left."""
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@contextlib.contextmanager
def started(state: Path, *words: str) -> Iterator[Demo]:
    command = [sys.executable, "-m", "veilmart", "demo", "--state", str(state), *words]
    with ended(
        subprocess.Popen(
            command,
            cwd=state.parent,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
    ) as demo:
        yield demo


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[Demo]:
    try:
        yield Demo(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@contextlib.contextmanager
def made_on_a_terminal(state: Path) -> Iterator[tuple[Demo, Callable[[], int]]]:
    """Run `make demo` in a terminal's foreground, below another folder; gives what types Ctrl-C."""
    if not (state.parent / ".venv").exists():
        (state.parent / ".venv").symlink_to(sys.prefix)
    keyboard, terminal = pty.openpty()
    try:
        with ended(
            subprocess.Popen(
                ["make", "-f", ROOT / "Makefile", "--assume-old=set-up", "demo", f"ARGS=--state {state}"],
                cwd=state.parent,
                env=environment(),
                stdin=terminal,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one system call
            )
        ) as demo:
            yield demo, functools.partial(os.write, keyboard, b"\x03")
    finally:
        os.close(keyboard)
        os.close(terminal)


STARTER = """
import sys, time
from pathlib import Path
from veilmart.processes import NodeProcess
NodeProcess("bus", ["bus", "run", "--home", sys.argv[1]], Path(sys.argv[2])).start()
print(flush=True)
time.sleep(600)
"""


def test_a_node_ends_with_who_started_it(tmp_path: Path) -> None:
    public_port, node_port = free_ports(2)
    report = init_market(
        tmp_path / "market", public_port=public_port, node_port=node_port, now_ms=clock.now_ms()
    )
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, report.bus_home, tmp_path / "log"], stdout=subprocess.PIPE
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"\n"
        nodes = descendants(starter.pid)
        assert len(nodes) == 2, "Mosquitto, and who runs it"
        assert all(alive(pid) for pid in nodes)
        starter.kill()
        starter.wait()
        assert gone(nodes)


@pytest.mark.exhaustive
def test_killed_it_leaves_no_node_and_runs_again(state: Path) -> None:
    with started(state) as demo:
        demo.until("signed up")
        nodes = demo.nodes()
        assert len(nodes) >= 5, "Mosquitto and who runs it, the broker, two merchants"
        demo.process.kill()
        demo.process.wait()
        assert gone(nodes)
    with started(state) as demo:
        demo.until("signed up")


@pytest.mark.exhaustive
def test_once(state: Path) -> None:
    with started(state, "--once", "--json") as demo:
        demo.until("signed up")
        nodes = demo.nodes()
        (line,) = demo.until("{", stream="stdout")
        out, err = demo.process.communicate(timeout=PATIENCE_S)
    assert (demo.process.returncode, out) == (0, ""), err
    assert len(nodes) >= 5
    assert gone(nodes)
    envelope: dict[str, Any] = json.loads(line)
    assert envelope["ok"] is True
    data = envelope["data"]
    assert set(data) == {"orders", "saw"}
    orders = data["orders"]
    assert len(orders) >= 3
    assert {order["merchant"] for order in orders} == {"sports", "archive"}
    for order in orders:
        assert set(order) == {"order_id", "merchant", "state", "seconds", "lines"}
        assert (order["state"], order["seconds"] > 0) == ("complete", True)
        for sold in order["lines"]:
            assert set(sold) == {"sku", "quantity", "sha256_expected", "sha256_delivered"}
            assert sold["sha256_expected"] == sold["sha256_delivered"]
            assert len(bytes.fromhex(sold["sha256_delivered"])) == 32
    assert any(len({sold["sku"] for sold in order["lines"]}) > 1 for order in orders), "two in one cart"
    assert set(data["saw"]) == {"sports", "archive", "broker", "bus", "auditor"}
    for party, saw in data["saw"].items():
        assert set(saw) == {"learned", "searched_for", "found"}, party
        assert (saw["found"], saw["searched_for"] > 10, len(saw["learned"]) > 0) == (0, True, True), party


@pytest.mark.exhaustive
def test_it_stays_up_and_what_it_invites_to_works(state: Path) -> None:
    with started(state) as demo:
        demo.until("The market is up", stream="stdout")
        *lines, blank, _, shop, dashboard, last = demo.until("Ctrl-C", stream="stdout")
        nodes = demo.nodes()
        assert (blank, last) == ("\n", "Ctrl-C ends it.\n")
        # What a browser does with a link: it gets a cookie, and the page.
        for link, heading in ((shop, "New in all shops"), (dashboard, "Today")):
            browser = build_opener(HTTPCookieProcessor())
            with browser.open(link.strip(), timeout=PATIENCE_S) as page:
                assert heading in page.read().decode()
        *commands, gap, third, watch = lines
        assert (gap, "before you buy" in third) == ("\n", True)
        assert all(line.startswith("  ") for line in (*commands, watch))
        # A person is asked before any money moves.
        script = "".join(line.strip() + "\n" for line in commands)
        for asks in ("customer buy\n", "customer withdraw\n"):
            assert script.count(asks) == 1
            script = script.replace(asks, asks.replace("\n", " --yes\n"))
        with subprocess.Popen(
            ("bash", "-c", f"exec {watch.strip()} --count 2"),
            cwd=state.parent,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as watching:
            assert watching.stderr is not None
            assert watching.stderr.readline() == "watching\n"
            ran = call("bash", "-eu", "-c", script, folder=state.parent)
            assert ran.returncode == 0, ran.stderr
            told, err = watching.communicate(timeout=PATIENCE_S)
            assert (watching.returncode, told.count("order.held"), err) == (0, 1, "")
        assert (state / "bought/guest/gpx-ridge.gpx").read_bytes() == (
            state / "goods/gpx-ridge.gpx"
        ).read_bytes()

        os.killpg(demo.process.pid, signal.SIGINT)
        _, err = demo.process.communicate(timeout=PATIENCE_S)
        assert (demo.process.returncode, err.splitlines()[-1]) == (0, "stopping")
        assert gone(nodes)


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_while_it_shops(state: Path, number: signal.Signals) -> None:
    with started(state) as demo:
        demo.until("from sports")
        nodes = demo.nodes()
        demo.process.send_signal(number)
        out, err = demo.process.communicate(timeout=PATIENCE_S)
        assert (demo.process.returncode, out) == (130, ""), err
        assert gone(nodes)
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "count"),
    [("starting Mosquitto", 3), pytest.param("signed up", 6, marks=pytest.mark.exhaustive)],
)
def test_ctrl_c_on_make_demo_leaves_nothing(state: Path, words: str, count: int) -> None:
    with made_on_a_terminal(state) as (demo, ctrl_c):
        demo.until(words)
        # veilmart, who runs Mosquitto, and Mosquitto; later the broker and two merchants too.
        while len(nodes := demo.nodes()) < count:
            assert demo.process.poll() is None
            time.sleep(0.01)
        ctrl_c()
        _, err = demo.process.communicate(timeout=PATIENCE_S)
        assert demo.process.returncode == -signal.SIGINT, "make itself: 130 to a shell"
        assert gone(nodes)
    assert "error: Interrupted." in err
    assert "Error 130" in err, "veilmart"
    assert "Traceback" not in err


@pytest.mark.exhaustive
def test_ctrl_c_on_make_demo_that_is_up(state: Path) -> None:
    with made_on_a_terminal(state) as (demo, ctrl_c):
        demo.until("Ctrl-C", stream="stdout")
        nodes = demo.nodes()
        ctrl_c()
        _, err = demo.process.communicate(timeout=PATIENCE_S)
        assert (demo.process.returncode, err.splitlines()[-1]) == (-signal.SIGINT, "stopping")
        assert gone(nodes)


@pytest.mark.exhaustive
def test_a_terminated_demo_ends_make(state: Path) -> None:
    with made_on_a_terminal(state) as (demo, _):
        demo.until("from sports")
        nodes = demo.nodes()
        (veilmart,) = children(demo.process.pid)
        os.kill(veilmart, signal.SIGTERM)
        _, err = demo.process.communicate(timeout=PATIENCE_S)
        assert (demo.process.returncode, "Error 130" in err) == (2, True)
        assert gone(nodes)
