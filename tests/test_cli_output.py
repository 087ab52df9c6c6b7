"""The contract of output: envelopes, exit codes, streams, and what may not be shown."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from cli import Terminal, veilmart

from common import errors
from common.envelope import error_fields
from common.errors import (
    CardDeclinedError,
    DeadlineError,
    DiscountRefusedError,
    InvalidCardError,
    OutOfStockError,
    UnreachableError,
    VeilmartError,
)
from veilmart import output
from veilmart.cli import app as root
from veilmart.cli.homes import output as output_of
from veilmart.output import IncompleteError, InternalError, Output, StoppedError, Table, printable

EXIT_CODES = {
    "error": 1,
    "internal": 1,
    "untrusted": 1,
    "busy": 1,
    "usage": 2,
    "card_invalid": 2,
    "not_found": 3,
    "payments_stopped": 4,
    "ledger_broken": 1,
    "rejected": 4,
    "price_changed": 4,
    "out_of_stock": 4,
    "discount_refused": 4,
    "insufficient_funds": 4,
    "too_soon": 4,
    "out_of_tickets": 4,
    "idempotency_conflict": 4,
    "card_declined": 4,
    "authentication": 5,
    "unreachable": 6,
    "bus_unreachable": 6,
    "broker_unreachable": 6,
    "merchant_offline": 6,
    "gateway_unreachable": 6,
    "timeout": 27,
    "interrupted": 130,
}


def families(kind: type[VeilmartError]) -> Iterator[type[VeilmartError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from families(below)


KINDS = sorted(
    {kind for kind in families(VeilmartError) if kind.__module__ in {errors.__name__, output.__name__}},
    key=lambda kind: kind.__name__,
)


def an_error(kind: type[VeilmartError]) -> VeilmartError:
    if issubclass(kind, DeadlineError):
        return kind("what happened", "what to do", hop="merchant")
    if issubclass(kind, InvalidCardError):
        return kind({"number": "what happened"}, "what to do")
    return kind("what happened", "what to do")


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A command `probe` that does what a test puts into `does`."""
    what = types.SimpleNamespace(does=lambda _shown: None)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)

    @app.command()
    def act(context: typer.Context, *, word: str = "") -> None:
        what.word = word
        what.does(output_of(context))

    @app.callback()
    def group() -> None:
        """Do what a test wants."""

    module: Any = types.ModuleType("probe_for_tests")
    module.app = app
    monkeypatch.setitem(sys.modules, "probe_for_tests", module)
    monkeypatch.setitem(root.COMMANDS, "probe", root.Lazy("probe_for_tests", "A probe."))
    return what


def raising(error: BaseException) -> Any:
    def act(_shown: Output) -> None:
        raise error

    return act


def test_the_table_of_codes_is_complete() -> None:
    assert {kind.code for kind in KINDS} == set(EXIT_CODES)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_its_envelope_and_exit_code(kind: type[VeilmartError], probe: Any) -> None:
    probe.does = raising(an_error(kind))
    ran = veilmart("probe", "act", "--json")
    assert ran.code == EXIT_CODES[kind.code]
    assert ran.err == ""
    more = {"hop": "merchant"} if issubclass(kind, DeadlineError) else {}
    more |= {"reason": "card_declined"} if issubclass(kind, CardDeclinedError) else {}
    more |= {"faults": {"number": "what happened"}} if issubclass(kind, InvalidCardError) else {}
    more |= {"reason": "code_unknown"} if issubclass(kind, DiscountRefusedError) else {}
    facts = {"hop": kind.hop} if issubclass(kind, UnreachableError) and kind.hop else more
    assert ran.envelope == {
        "ok": False,
        "error": {
            "code": kind.code,
            "message": "what happened",
            "hint": "what to do",
            "retryable": kind.retryable,
            **more,
            **({"facts": facts} if facts else {}),
        },
    }


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_tells_a_person_on_stderr(kind: type[VeilmartError], probe: Any) -> None:
    probe.does = raising(an_error(kind))
    ran = veilmart("probe", "act")
    assert (ran.code, ran.out) == (EXIT_CODES[kind.code], "")
    assert ran.err == "error: what happened\nhint: what to do\n"


def test_what_is_available_is_in_the_envelope(probe: Any) -> None:
    probe.does = raising(OutOfStockError("only two", available=2))
    error = veilmart("probe", "act", "--json").error
    assert (error["available"], error["facts"]) == (2, {"available": 2})


@pytest.mark.parametrize(
    "words",
    [("--json", "probe", "act"), ("probe", "--json", "act"), ("probe", "act", "--json")],
    ids=["first", "between", "last"],
)
def test_json_may_stand_anywhere(words: tuple[str, ...], probe: Any) -> None:
    probe.does = lambda shown: shown.show({"answer": 42}, "forty-two")
    assert veilmart(*words).data == {"answer": 42}


def test_json_after_two_dashes_is_a_word_like_any_other(probe: Any) -> None:
    ran = veilmart("probe", "act", "--", "--json")
    assert ran.code == 2
    assert ran.out == ""


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("broker",),
        ("broker", "account", "credit", "alice"),
        ("init", "--public-port", "many"),
        ("init", "--nonsense"),
        ("init", "--key-type", "rot13"),
        ("withdraw", "--bundles", "0"),
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_a_usage_error_in_the_same_shape(words: tuple[str, ...], tmp_path: Path) -> None:
    ran = veilmart(*words, "--json", home=tmp_path)
    assert ran.code == 2
    assert ran.error["code"] == "usage"
    assert ran.error["hint"].endswith("--help` shows how.")
    plain = veilmart(*words, home=tmp_path)
    assert (plain.code, plain.out) == (2, "")
    assert plain.err.startswith(f"error: {ran.error['message']}")


def test_an_interruption_ends_with_130(probe: Any) -> None:
    probe.does = raising(KeyboardInterrupt())
    ran = veilmart("probe", "act", "--json")
    assert (ran.code, ran.error["code"]) == (130, "interrupted")


def test_a_mistake_of_ours_shows_its_place_and_no_value(probe: Any) -> None:
    probe.does = raising(RuntimeError("hunter2"))
    ran = veilmart("probe", "act", "--json")
    assert (ran.code, ran.error["code"]) == (1, "internal")
    assert "RuntimeError at test_cli_output.py:" in ran.error["message"]
    assert "VEILMART_DEBUG=1" in ran.error["hint"]
    assert "hunter2" not in ran.out + ran.err


def test_the_whole_trace_is_shown_to_whoever_asks_for_it(probe: Any) -> None:
    probe.does = raising(RuntimeError("hunter2"))
    ran = veilmart("probe", "act", "--json", VEILMART_DEBUG="1")
    assert "hunter2" in ran.err
    assert ran.error["code"] == "internal"


def test_a_file_that_cannot_be_used_is_named(probe: Any) -> None:
    probe.does = lambda _shown: Path("/nowhere/at/all").read_bytes()
    ran = veilmart("probe", "act", "--json")
    assert (ran.code, ran.error["code"]) == (1, "error")
    assert ran.error["message"] == "/nowhere/at/all: No such file or directory"


def test_what_was_done_before_something_failed_stands_beside_the_error(probe: Any) -> None:
    error = errors.MerchantOfflineError("away", "later")
    probe.does = raising(IncompleteError(error, {"orders": [1]}, "one order"))
    ran = veilmart("probe", "act", "--json")
    assert ran.code == 6
    assert ran.envelope["ok"] is False
    assert ran.envelope["data"] == {"orders": [1]}
    assert ran.error["code"] == "merchant_offline"
    plain = veilmart("probe", "act")
    assert (plain.code, plain.out, plain.err) == (6, "one order\n", "error: away\nhint: later\n")


def test_errors_inside_data_are_written_like_errors(probe: Any) -> None:
    probe.does = lambda shown: shown.show({"failures": {"sports": an_error(DeadlineError)}, "at": Path("/x")})
    assert veilmart("probe", "act", "--json").data == {
        "failures": {
            "sports": {
                "code": "timeout",
                "message": "what happened",
                "hint": "what to do",
                "retryable": True,
                "hop": "merchant",
                "facts": {"hop": "merchant"},
            }
        },
        "at": "/x",
    }


HOSTILE = "\x1b]0;owned\x07 plan\u202e\x00\nnext\tcell"


def test_a_table_in_a_pipe_is_tabs_and_lines(probe: Any) -> None:
    probe.does = lambda shown: shown.show([], Table(("sku", "title"), [("a", HOSTILE), ("b", "[bold]x")]))
    ran = veilmart("probe", "act")
    assert ran.out == "sku\ttitle\na\t\ufffd]0;owned\ufffd plan\ufffd\ufffd next cell\nb\t[bold]x\n"


def test_a_table_on_a_terminal_is_drawn_without_what_would_steer_it(probe: Any) -> None:
    probe.does = lambda shown: shown.show([], Table(("sku", "title"), [("a", HOSTILE), ("b", "[bold]x")]))
    ran = veilmart("probe", "act", terminal=True, NO_COLOR="1", TERM="xterm", COLUMNS="80")
    assert "\x1b]" not in ran.out
    assert "\x07" not in ran.out
    assert "[bold]x" in ran.out
    assert "\u2500" in ran.out


def test_nothing_is_cut_off_on_a_narrow_terminal(probe: Any) -> None:
    row = ("q" * 60, "x" * 64, "z" * 32)
    probe.does = lambda shown: shown.show([], Table(("path", "SHA-256", "order"), [row]))
    out = veilmart("probe", "act", terminal=True, NO_COLOR="1", TERM="xterm", COLUMNS="60").out
    assert (out.count("q"), out.count("x"), out.count("z")) == (60, 64, 32)


def test_colours_only_on_a_terminal_and_never_with_no_color(probe: Any) -> None:
    probe.does = lambda shown: shown.show([], Table(("sku",), [("a",)]))
    coloured = veilmart("probe", "act", terminal=True, TERM="xterm")
    plain = veilmart("probe", "act", terminal=True, TERM="xterm", NO_COLOR="1")
    assert "\x1b[" in coloured.out
    assert "\x1b" not in plain.out


def test_text_of_strangers_is_made_harmless_and_left_readable() -> None:
    assert (
        printable("Zürich \N{RUNNER} 10\N{NO-BREAK SPACE}km\n")
        == "Zürich \N{RUNNER} 10\N{NO-BREAK SPACE}km\n"
    )
    assert printable("a\x1b[2Jb\x9b") == "a\ufffd[2Jb\ufffd"


def test_json_is_one_line_of_ascii_whatever_is_in_it(probe: Any) -> None:
    probe.does = lambda shown: shown.show({"title": HOSTILE + "Zürich"})
    ran = veilmart("probe", "act", "--json")
    assert ran.out.isascii()
    assert ran.data == {"title": HOSTILE + "Zürich"}


def test_nobody_can_be_asked_in_a_pipe(probe: Any) -> None:
    probe.does = lambda shown: shown.confirm("Sure?", yes=False)
    ran = veilmart("probe", "act", "--json")
    assert (ran.code, ran.error["code"]) == (2, "usage")
    assert "--yes" in ran.error["hint"]


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("YES\n", 0), ("n\n", 130), ("\n", 130), ("", 130)])
def test_a_person_is_asked_on_stderr(
    answer: str, code: int, probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    probe.does = lambda shown: shown.confirm("Sure?", yes=False)
    ran = veilmart("probe", "act")
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith("Sure? [y/N] ")


def test_a_reader_that_goes_away_is_no_disaster() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "veilmart", "init", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        complaint = process.stderr.read()
        assert process.wait(timeout=30) == 1
    assert complaint == b""


def test_without_words_the_command_shows_its_help() -> None:
    ran = veilmart()
    assert ran.code == 0
    assert all(name in ran.out for name in root.COMMANDS)


def test_help_and_version_import_no_node() -> None:
    code = (
        "import sys; from veilmart.cli.app import main; main(['--help']); main(['--version'])\n"
        "heavy = {'sqlalchemy', 'paho', 'cryptography', 'rich', 'broker_node', 'customer_node'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_customers_commands_need_no_customer_in_front() -> None:
    customer = root.load("customer")
    assert set(customer.commands).isdisjoint(root.COMMANDS)
    for name in customer.commands:
        assert (
            veilmart(name, "--help").out.splitlines()[1:]
            == veilmart("customer", name, "--help").out.splitlines()[1:]
        )


def test_every_command_explains_itself() -> None:
    def leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, below in getattr(command, "commands", {}).items():
            yield from leaves(below, (*path, name))
        if not hasattr(command, "commands"):
            yield path, command

    for name in root.COMMANDS:
        for path, command in leaves(root.load(name), (name,)):
            assert command.help, path
            for option in command.params:
                assert "password" not in option.name or option.name.endswith("password_file"), path
            assert veilmart(*path, "--help").code == 0


def test_internal_and_interrupted_are_errors_like_others() -> None:
    assert InternalError("x").exit_code == 1
    assert StoppedError("x").retryable
    assert json.loads(json.dumps(error_fields(StoppedError("x"))))["code"] == "interrupted"
