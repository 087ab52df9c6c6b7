"""The documents say what the code does: every table of `docs/protocol.md` is compared with its source.

A failure shows the rows as the code has them; they can be pasted. Words beside them are for a person.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from broker_node import operator_actions
from common import config, errors, messages, presence, states, topics

ROOT = Path(__file__).parent.parent
PROTOCOL = ROOT / "docs" / "protocol.md"
PACKAGES = ("common", "broker_node", "merchant_node", "customer_node", "auditor_node", "veilmart")
UNITS = {"KIB", "SECOND_MS", "MINUTE_MS", "HOUR_MS", "DAY_MS"}


# --- Reading the documents -----------------------------------------------------------------------------


def section(title: str) -> str:
    """One section of the protocol, up to the next heading of any level."""
    text = PROTOCOL.read_text()
    found = re.search(
        rf"^#+ (?:\d+(?:\.\d+)* )?{re.escape(title)}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL
    )
    assert found, f"docs/protocol.md has no section {title!r}"
    return found[1]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's only table, its header left out, code marks taken off."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    assert len(lines) > 2, f"section {title!r} has no table"
    return [[plain(cell) for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def plain(cell: str) -> str:
    return cell.strip().replace("`", "").replace("\\|", "|")


def column(title: str, index: int = 0) -> list[str]:
    found = [row[index] for row in rows(title)]
    assert len(set(found)) == len(found), f"section {title!r} names something twice"
    return found


def pasteable(expected: list[tuple[str, ...]]) -> str:
    return "\n" + "\n".join("| " + " | ".join(row) + " |" for row in expected)


# --- Reading the code ----------------------------------------------------------------------------------


def structs(base: type) -> list[type[msgspec.Struct]]:
    """Every message or part, in the order of `common/messages.py`."""
    return [
        value
        for value in vars(messages).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value not in (messages.Message, messages.Part)
    ]


def shape(kind: Any) -> str:
    """A field's type and bounds, in the notation that the protocol's section "Fields" explains."""
    inspect = msgspec.inspect
    match kind:
        case inspect.Metadata(type=inner):
            text = shape(inner)
        case inspect.ListType(item_type=item, min_length=low, max_length=high):
            text = f"list {bounds(low, high)} of {shape(item)}"
        case inspect.StructType(cls=cls):
            text = cls.__name__
        case inspect.UnionType(types=types):
            text = " or ".join(shape(each) for each in types)
        case inspect.LiteralType(values=values):
            text = " or ".join(f'"{value}"' for value in sorted(values))
        case _:
            text = scalar(kind)
    return text


def scalar(kind: Any) -> str:
    inspect = msgspec.inspect
    match kind:
        case inspect.BytesType(min_length=low, max_length=high):
            text = f"bytes {bounds(low, high)}"
        case inspect.StrType(pattern=str(pattern)):
            text = "text " + pattern.removeprefix(r"\A").removesuffix(r"\Z")
        case inspect.StrType(min_length=low, max_length=high):
            text = f"text {bounds(low, high)}"
        case inspect.IntType(gt=int(above), le=high):
            text = f"integer {bounds(above + 1, high)}"
        case inspect.IntType(ge=low, le=high):
            text = f"integer {bounds(low, high)}"
        case inspect.BoolType():
            text = "boolean"
        case _:
            raise AssertionError(f"no notation for {kind}")
    return text


def bounds(low: int | None, high: int | None) -> str:
    return str(high) if low == high else f"{low or 0}..{high}"


def fields(struct: type[msgspec.Struct]) -> str:
    found = []
    for field in msgspec.structs.fields(struct):
        if isinstance(field.type, type(messages.Body)):
            found.append(f"{field.name}: a message")
            continue
        text = shape(msgspec.inspect.type_info(field.type))
        # RefusalCode has a table of its own.
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        later = "" if default is msgspec.NODEFAULT else f" (else {json.dumps(default, default=len)})"
        found.append(f"{field.name}: {'refusal code' if field.type == messages.RefusalCode else text}{later}")
    return "; ".join(found)


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path, ast.parse(path.read_text())


def constants_of(node: ast.AST) -> Iterator[Any]:
    for child in ast.walk(node):
        if isinstance(child, ast.Constant):
            yield child.value


def value_of(name: str) -> Any:
    """`package.module.NAME.attribute`, where a module ends and its content begins being found out."""
    parts = name.split(".")
    module = importlib.import_module(".".join(parts[:2]))
    value: Any = module
    for part in parts[2:]:
        value = getattr(value, part)
    return value


def number(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def family(base: type) -> Iterator[type]:
    yield base
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from family(child)


# --- Messages ------------------------------------------------------------------------------------------


def test_every_message_is_in_the_message_table_and_nothing_else_is() -> None:
    assert column("Messages") == [struct.__name__ for struct in structs(messages.Message)]


def test_every_field_of_every_message_is_described_as_the_codec_checks_it() -> None:
    expected = [
        (f"`{struct.__name__}`", fields(struct))
        for struct in [*structs(messages.Part), *structs(messages.Message)]
    ]
    documented = [(f"`{name}`", text) for name, text in rows("Fields")]
    assert documented == expected, pasteable([(name, text.replace("|", "\\|")) for name, text in expected])


@pytest.mark.parametrize(
    ("title", "union"),
    [
        ("What an account session may send", messages.FromAccount),
        ("What a shop session may send", messages.FromShop),
        ("What a merchant session may send", messages.FromMerchant),
        ("What an account session may be sent", messages.ToAccount),
        ("What a shop session may be sent", messages.ToShop),
        ("What a merchant session may be sent", messages.ToMerchant),
        ("What a sealed request may hold", messages.SealedBody),
        ("What a sealed answer may hold", messages.SealedAnswer),
    ],
)
def test_each_scope_lists_what_its_codec_decodes(title: str, union: Any) -> None:
    listed = {row[0]: row[1] for row in rows("Scopes")}
    assert set(re.findall(r"\w+", listed[title])) == {each.__name__ for each in get_args(union)}


@pytest.mark.parametrize(
    ("title", "literal"),
    [
        ("Refusal codes", messages.RefusalCode),
        ("Rejection codes", messages.RejectionCode),
        ("Sealed refusal codes", msgspec.structs.fields(messages.RequestRefused)[0].type),
    ],
)
def test_every_code_on_the_wire_is_explained(title: str, literal: Any) -> None:
    assert column(title) == list(get_args(literal))


# --- Topics, labels, limits ----------------------------------------------------------------------------


def example_of(topic: str) -> str:
    named = topic.replace("<key id>", "ab" * 8).replace("<number>", "7")
    return named.replace("<sid>", "ab" * 16).replace("<mid>", "sports").replace("<type>", "order.held")


def test_every_topic_is_in_the_topic_table() -> None:
    parsed = [type(topics.parse(example_of(topic))) for topic in column("Topics")]
    assert sorted(kind.__name__ for kind in parsed) == sorted(
        kind.__name__ for kind in get_args(topics.Topic)
    )


def permissions() -> dict[tuple[str, str], set[str]]:
    """(topic filter, access) -> who has it, as Mosquitto's two files say."""
    found: dict[tuple[str, str], set[str]] = {}
    for name, anyone, pattern in (("acl-public", "everyone", "customer"), ("acl-nodes", "", "merchant")):
        who = anyone
        for line in (ROOT / "mosquitto" / name).read_text().splitlines():
            words = line.split()
            if words[:1] == ["user"]:
                who = words[1]
            elif words[:1] in (["topic"], ["pattern"]):
                holder = pattern if words[0] == "pattern" else who
                for access in ("read", "write"):
                    if access in words[1]:
                        found.setdefault((words[2], access), set()).add(holder)
    return found


def matches(pattern: str, topic: str) -> bool:
    expression = re.escape(pattern).replace(r"\+", "[^/]+").replace(r"\#", ".+").replace("#", ".+")
    return bool(re.fullmatch(expression.replace("%u", "[^/]+").replace("%c", "[^/]+"), topic))


def test_the_topic_table_says_who_may_what_as_the_access_files_do() -> None:
    allowed = permissions()
    for topic, writes, reads, _ in rows("Topics"):
        for access, documented in (("write", writes), ("read", reads)):
            actual = {
                who
                for (pattern, kind), holders in allowed.items()
                if kind == access and matches(pattern, example_of(topic))
                for who in holders
            }
            assert set(re.findall(r"\w+", documented)) == actual, f"{topic} {access}"


def test_every_label_in_the_code_is_in_the_key_schedule() -> None:
    used = {
        value
        for _, tree in sources()
        for value in constants_of(tree)
        if isinstance(value, bytes) and value.startswith(b"veilmart")
    }
    documented = {label.encode().replace(b"\\0", b"\0") for label in column("Labels")}
    assert documented == used


def test_the_limits_are_the_defaults_of_the_code() -> None:
    expected = [
        (f"`{name}`", number(value)) for name, value in msgspec.structs.asdict(config.Limits()).items()
    ]
    documented = [(f"`{row[0]}`", row[1]) for row in rows("Limits that an operator may set")]
    assert documented == expected, pasteable(expected)


def test_the_fixed_sizes_are_those_of_the_code() -> None:
    expected = [
        (f"`{name}`", number(value))
        for name, value in vars(config).items()
        if name.isupper() and name not in UNITS
    ]
    documented = [(f"`{row[0]}`", row[1]) for row in rows("Fixed sizes")]
    assert documented == expected, pasteable(expected)


@pytest.mark.parametrize("row", rows("Other fixed values"), ids=lambda row: row[0])
def test_other_fixed_values_are_those_of_the_code(row: list[str]) -> None:
    assert row[1] == number(value_of(row[0]))


# --- States, errors, events, presence ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "table"),
    [
        ("An order at the broker", states.BROKER_ORDER),
        ("An order at the merchant", states.MERCHANT_ORDER),
        ("An order at the customer", states.CUSTOMER_ORDER),
        ("A top-up at the broker", states.BROKER_TOP_UP),
        ("A top-up at the customer", states.CUSTOMER_TOP_UP),
        ("An account", states.ACCOUNT),
        ("A payout at the broker", states.PAYOUT),
        ("A payout at the merchant", states.MERCHANT_PAYOUT),
    ],
)
def test_the_state_tables_are_those_of_the_code(title: str, table: states.Table) -> None:
    documented = {row[0]: frozenset(re.findall(r"\w+", row[1])) for row in rows(title)}
    assert documented == dict(table)


def test_every_error_code_has_its_exit_code() -> None:
    expected = {(each.code, str(each.exit_code)) for each in family(errors.VeilmartError)}  # type: ignore[attr-defined]
    assert {(row[0], row[1]) for row in rows("Errors that a person reads")} == expected


def test_retryable_errors_are_marked() -> None:
    expected = {each.code: each.retryable for each in family(errors.VeilmartError)}  # type: ignore[attr-defined]
    assert {row[0]: row[2] == "yes" for row in rows("Errors that a person reads")} == expected


def test_every_reason_for_dropping_is_listed() -> None:
    reasons = {each.reason for each in family(errors.WireError)}  # type: ignore[attr-defined]
    assert set(column("Reasons for dropping")) == reasons


def recorded(tree: ast.Module) -> Iterator[ast.expr]:
    """The type argument of every `….record(tx, type, …)`."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name("operator_actions"), attr="record")):
                # Its type is written once, in that module.
                continue
            case ast.Call(func=ast.Attribute(attr="record"), args=[_, kind, *_]):
                yield kind


def test_every_event_type_is_listed() -> None:
    written: set[str] = set()
    for path, tree in sources():
        for kind in recorded(tree) if path.parent.name == "broker_node" else ():
            match kind:
                case ast.Constant(value=str(name)):
                    written.add(name)
                case ast.JoinedStr(values=[ast.Constant(value="order."), _]):
                    written |= {f"order.{state}" for state in states.BROKER_ORDER}
                case _:
                    raise AssertionError(f"{path.name}: an event whose type cannot be read: {ast.dump(kind)}")
    assert set(column("Audit events")) == written


def test_every_action_of_the_operator_is_listed() -> None:
    assert column("Actions of the operator") == list(get_args(operator_actions.Action))


def test_the_presence_shown_is_read_by_the_code() -> None:
    shown = re.findall(r"^    (\{.*\})$", section("Presence"), re.MULTILINE)
    assert [presence.read_presence(line.encode()).state for line in shown] == ["online", "online", "offline"]


# --- The other documents -------------------------------------------------------------------------------


def documents() -> list[Path]:
    return [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_a_test_that_a_document_names_exists(path: Path) -> None:
    for file, name in re.findall(r"(tests/test_\w+\.py)(?:::(test_\w+))?", path.read_text()):
        assert (ROOT / file).exists(), file
        if name:
            assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{name}"


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_a_link_inside_the_documents_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_each_decision_has_its_page_in_the_list() -> None:
    pages = {path.name for path in (ROOT / "docs" / "adr").glob("[0-9]*.md")}
    listed = set(re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (ROOT / "docs" / "adr" / "README.md").read_text()))
    assert pages == listed
    for page in pages:
        text = (ROOT / "docs" / "adr" / page).read_text()
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"], page
