"""Help, examples, docs/cli.md, completion and the contract: what they say is what the commands are."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from cli import veilmart
from cli_reference import BEGIN, DOCUMENT, END, commands, written
from readme import ROOT
from test_docs import example_of, family
from typer.main import get_command

from common import errors, messages, topics
from veilmart import output
from veilmart.cli import app as root
from veilmart.cli.customer_orders import RECEIPT_DEFAULT, ReceiptGroup
from veilmart.cli.examples import EXAMPLES, epilog
from veilmart.output import CONTRACT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ANYWHERE = {"--json", "--help", "--version"}
LEAVES = dict(commands())
ASK_NOBODY = {("customer", "join"), ("customer", "receipt", "verify")}
"""Customers' commands that need no connection."""


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a group's commands be built once for all tests."""
    monkeypatch.setattr(root, "load", LOADED)


LOADED = cache(root.load)


@cache
def tree() -> Any:
    """The root with all of its commands loaded."""
    command: Any = get_command(root.app)
    for name in root.COMMANDS:
        command.commands[name] = LOADED(name)
    return command


# --- The reference -------------------------------------------------------------------------------------


def test_the_reference_is_that_of_the_commands() -> None:
    found = DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0].strip()
    assert found == written().strip(), "`.venv/bin/python tests/cli_reference.py` writes it anew"


def test_the_contract_has_the_version_that_the_document_says() -> None:
    assert re.findall(r"Its version is \*\*(\d+)\*\*", DOCUMENT.read_text()) == [str(CONTRACT)]
    shown = veilmart("--version", "--json").data
    assert shown == {"version": veilmart("--version").out.strip(), "contract": CONTRACT}
    (line,) = re.findall(r'^    (\{"ok":true,"data":\{"version".*)$', DOCUMENT.read_text(), re.MULTILINE)
    assert veilmart("--version", "--json").out.strip() == line


def test_the_readmes_table_of_exits_is_that_of_the_code() -> None:
    table = re.findall(r"^\| (\d+) \| .*? \| (.*?) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    documented = {(code, int(number)) for number, codes in table for code in re.findall(r"`(\w+)`", codes)}
    kinds = [*family(errors.VeilmartError), output.InternalError, output.StoppedError]
    # Nothing raises the family itself: what is unreachable has a name.
    assert documented == {(kind.code, kind.exit_code) for kind in kinds} - {("unreachable", 6)}  # type: ignore[attr-defined]


# --- Help and examples ---------------------------------------------------------------------------------


def test_every_command_has_examples_and_no_other_has() -> None:
    assert set(EXAMPLES) - {""} == {" ".join(path) for path in LEAVES}
    assert all(EXAMPLES.values())


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_is_parsed_by_its_command(line: str) -> None:
    words = shlex.split(re.sub(r'^eval "\$\((.*)\)"$', r"\1", line).partition(" > ")[0])
    assert words[0] == "veilmart"
    command = tree()
    context = command.make_context("veilmart", [word for word in words[1:] if word not in ANYWHERE])
    while context.args or context._protected_args:
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        # Raises where an option, a value or an argument does not fit.
        context = command.make_context(name, rest, parent=context)
        if not hasattr(command, "commands"):
            break
    assert not hasattr(command, "commands") or command.invoke_without_command


def test_help_ends_with_the_examples() -> None:
    for path, command in LEAVES.items():
        assert command.epilog == epilog(EXAMPLES[" ".join(path)])
    for path in [(), ("init",), ("buy",), ("customer", "receipt", "verify")]:
        shown = veilmart(*path, "--help").out
        full = ("customer", "buy") if path == ("buy",) else path
        lines = ["Examples:", *(f"  {line}" for line in EXAMPLES[" ".join(full)])]
        assert [line.strip() for line in shown.splitlines()[-len(lines) :]] == [
            each.strip() for each in lines
        ]


def test_help_in_json_is_one_envelope() -> None:
    assert veilmart("buy", "--help", "--json").data["help"].startswith("Usage: veilmart buy")
    assert "Examples:" in veilmart("--json").data["help"]


# --- What the documents show of commands, topics and messages ------------------------------------------


def shown_lines(text: str) -> Iterator[str]:
    """Give each command line that a document shows, in its code blocks and between backticks."""
    yield from re.findall(r"`(veilmart [^`\n]*)`", text)
    for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL):
        yield from re.findall(r"^(?:\$ )?(veilmart .*)$", block, re.MULTILINE)
    yield from re.findall(r"^    (?:\$ )?(veilmart .*)$", text, re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_options_in_a_document_exist(path: Path) -> None:
    for line in shown_lines(path.read_text()):
        command, words = tree(), line.partition("#")[0].split()[1:]
        customers = command.commands[root.CUSTOMER]
        if words and words[0] in customers.commands and words[0] not in command.commands:
            command = customers
        while words and words[0] in getattr(command, "commands", {}):
            command, words = command.commands[words[0]], words[1:]
        if isinstance(command, ReceiptGroup):
            command = command.commands[RECEIPT_DEFAULT]
        at_a_loss = hasattr(command, "commands") and words and re.fullmatch(r"[a-z][a-z-]*", words[0])
        assert not at_a_loss, f"{line}: there is no `{words[0]}`"
        known = {option for parameter in command.params for option in parameter.opts} | ANYWHERE
        for word in words:
            if word in {"|", "||", "&&", "&", ">", ";"}:
                break
            option = word.strip("[]().,;").partition("=")[0]
            assert not option.startswith("--") or option in known, f"{line}: there is no {option}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_topics_in_a_document_exist(path: Path) -> None:
    for topic in re.findall(r"veilmart/v1/[\w/<>. ]+[\w>]", path.read_text()):
        named = topic.split(" -")[0].strip().removesuffix("/")
        if named.count("/") > 2 and not re.search(r"[ +#]", named.replace("<key id>", "")):
            topics.parse(example_of(named))


def class_names() -> set[str]:
    """Give the name of every class, alias and constant in the sources."""
    found: set[str] = set()
    for package in ("common", "broker_node", "merchant_node", "customer_node", "auditor_node", "veilmart"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    found.add(node.name)
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    found.add(node.target.id)
    return found


def test_messages_in_the_documents_exist() -> None:
    known = class_names()
    for path in DOCUMENTS:
        for name in re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)\b", path.read_text()):
            assert name in known, f"{path.name}: there is no {name}"
    text = (ROOT / "docs" / "protocol.md").read_text()
    for each in (*get_args(messages.FromShop), *get_args(messages.FromMerchant)):
        assert f"`{each.__name__}`" in text


# --- The contract, command by command ------------------------------------------------------------------


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_a_wrong_call_of_any_command_is_one_envelope(path: tuple[str, ...], tmp_path: Path) -> None:
    ran = veilmart(*path, "--no-such-option", "--json", home=tmp_path / "nothing")
    assert (ran.code, ran.error["code"], ran.err) == (2, "usage", "")
    assert ran.error["hint"].endswith("--help` shows how.")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_options_that_belong_together_are_there_and_explained(path: tuple[str, ...]) -> None:
    command = LEAVES[path]
    options = {name for parameter in command.params for name in parameter.opts}
    if path[0] == root.CUSTOMER and path not in ASK_NOBODY:
        assert {"--timeout", "--proxy"} <= options
    for parameter in command.params:
        assert parameter.help, f"{parameter.name} of {' '.join(path)}"


def test_tables_and_bars_are_drawn_in_two_places_and_on_terminals_alone() -> None:
    drawing = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "veilmart").rglob("*.py")
        if re.search(r"^\s*(?:from|import) rich\b", path.read_text(), re.MULTILINE)
    }
    assert drawing == {"veilmart/output.py", "veilmart/cli/customer_orders.py"}
    assert all("isatty()" in (ROOT / name).read_text() for name in drawing)


# --- Completion ----------------------------------------------------------------------------------------


def test_customers_commands_are_named_for_completion() -> None:
    assert set(root.CUSTOMERS) == set(root.load(root.CUSTOMER).commands)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_their_scripts(shell: str) -> None:
    script = veilmart("completion", shell, "--json").data["script"]
    assert f"_VEILMART_COMPLETE=complete_{shell}" in script
    assert veilmart("completion", "tcsh", "--json").code == 2


BASH = """
source /dev/stdin
complete=$(complete -p veilmart | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
asked() {
  COMP_WORDS=(veilmart "$@") COMP_CWORD=$# COMPREPLY=()
  "$complete" veilmart
  echo "${COMPREPLY[@]}"
}
asked b; asked broker account cl; asked cart add --q
"""


def test_bash_completes_commands_and_options() -> None:
    # The shell finds the command where this interpreter's scripts lie.
    ended = subprocess.run(
        ["bash", "--norc", "-c", BASH],
        input=veilmart("completion", "bash").out,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stderr == ""
    assert [line.split() for line in ended.stdout.splitlines()] == [
        ["bus", "broker", "balance", "buy"],
        ["close"],
        ["--quantity"],
    ]


def test_completing_the_first_word_imports_no_node() -> None:
    code = (
        "import os, sys; os.environ |= {'_VEILMART_COMPLETE': 'complete_bash', 'COMP_WORDS': 'veilmart b',"
        " 'COMP_CWORD': '1'}\n"
        "from veilmart.cli.app import main; main([])\n"
        "heavy = {'sqlalchemy', 'paho', 'cryptography', 'broker_node', 'customer_node'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stderr, "buy" in ended.stdout) == (0, "", True)
