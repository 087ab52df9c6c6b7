"""Who may import whom, read from the sources.

The checks themselves are tested on planted sources below: a check that can't fail shows nothing.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NODES = frozenset({"broker_node", "merchant_node", "customer_node", "auditor_node"})
PACKAGES = NODES | {"common", "veilmart"}

# Each with the reason why keys are handled there; every other module gets by without.
MAY_IMPORT = {
    "paho": {"common.mqtt": "the one edge to MQTT"},
    "gmpy2": {"common.blind": "modular powers of RFC 9474"},
    "ctypes": {
        "common.raw_rsa": "OpenSSL's bare RSA, which cryptography does not offer",
        "veilmart.processes": "asks Linux to end a child with its parent",
    },
    "stripe": {"broker_node.gateways.stripe": "charges cards; an optional extra"},
    "requests": {"broker_node.gateways.stripe": "carries Stripe's calls, with a session of our own"},
    "cryptography": {
        "common.blind": "verifies RSA-PSS, loads issuer keys",
        "common.coins": "derives a token's secrets",
        "common.frames": "MACs, seals and derives session keys",
        "common.keys": "identity keys and certificates",
        "common.market_file": "checks the CA certificate that a market stands on",
        "common.sealing": "HPKE and what is derived from it",
        "common.validity": "revocation lists",
        "broker_node.totp": "one-time codes of a second factor",
        "broker_node.keys": "the broker's keys",
        "broker_node.relay": "opens reply tokens",
        "merchant_node.home": "reads its own certificate",
        "customer_node.numbers": "derives the ids of swaps and orders, and an order's secret",
        "customer_node.orders": "derives an order's secrets from one",
        "customer_node.receipts": "reads the certificate that a receipt was signed under",
        "customer_node.sealed_columns": "seals what is secret in the profile's store",
        "customer_node.seed_file": "seals the wallet's seed",
        "veilmart.ca": "certifies",
        "veilmart.certificates": "builds certificates",
        "veilmart.cli.certificates": "tells when certificates end",
        "veilmart.doctor.certificates": "compares a home's certificate with its key and its CA",
    },
}


def sources() -> dict[str, str]:
    """Give every module's text, by its dotted name."""
    found = {}
    for package in sorted(PACKAGES):
        for path in sorted((ROOT / package).rglob("*.py")):
            if "migrations" in path.parts and path.name != "__init__.py":
                continue
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path.read_text()
    return found


@functools.cache
def imports(text: str) -> frozenset[str]:
    """Give what a source imports, anywhere in it: `a.b` and, for `from a import b`, `a` and `a.b`."""
    return frozenset(_imports(text))


def _imports(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise AssertionError("relative imports are not read here, nor used")
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_of(name: str) -> str:
    return name.partition(".")[0]


def foreign_imports(modules: Mapping[str, str]) -> list[str]:
    """Find nodes that import nodes, and anything that imports upwards."""
    faults = []
    for module, text in modules.items():
        own = package_of(module)
        allowed = PACKAGES if own == "veilmart" else {own, "common"}
        faults += [
            f"{module} imports {name}"
            for name in sorted(imports(text))
            if package_of(name) in PACKAGES - allowed
        ]
    return faults


def guarded_imports(modules: Mapping[str, str]) -> list[str]:
    """Find imports of what only a few modules may import."""
    return [
        f"{module} imports {name}"
        for module, text in modules.items()
        for name in sorted({package_of(name) for name in imports(text)} & MAY_IMPORT.keys())
        if module not in MAY_IMPORT[name]
    ]


def cycles(modules: Mapping[str, str]) -> list[str]:
    """Find modules that import one another, by whatever way round."""
    graph = {
        module: {name for name in imports(text) if name in modules and name != module}
        for module, text in modules.items()
    }
    # `from package import module` names the package too, which is a cycle only if its __init__ does things.
    for module, names in graph.items():
        names -= {package for package in names if module.startswith(f"{package}.")}
    found: list[str] = []
    done: set[str] = set()

    def visit(module: str, road: list[str]) -> None:
        if module in road:
            found.append(" -> ".join([*road[road.index(module) :], module]))
        elif module not in done:
            for name in sorted(graph[module]):
                visit(name, [*road, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return found


def test_all_packages_are_looked_at() -> None:
    names = sources()
    assert {package_of(name) for name in names} >= {"common", "broker_node", "merchant_node"}
    assert {"common.messages", "broker_node.broker", "veilmart.ca"} <= names.keys()


def test_nodes_import_common_and_themselves_alone() -> None:
    assert foreign_imports(sources()) == []


def test_keys_are_handled_where_it_is_said() -> None:
    assert guarded_imports(sources()) == []


def test_the_list_names_no_module_that_does_not_need_it() -> None:
    modules = sources()
    unneeded = [
        f"{module}: {library}"
        for library, may in MAY_IMPORT.items()
        for module in may
        if module not in modules or library not in {package_of(name) for name in imports(modules[module])}
    ]
    assert unneeded == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert cycles(sources()) == []


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("merchant_node.x", "from broker_node import orders"),
        ("merchant_node.x", "import customer_node.wallet"),
        ("common.x", "from veilmart import ca"),
        ("common.x", "def f():\n    from merchant_node.shop import Shop"),
        ("broker_node.x", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import auditor_node"),
        ("customer_node.x", "import veilmart.ca as authority"),
    ],
)
def test_a_planted_foreign_import_is_found(module: str, text: str) -> None:
    assert len(foreign_imports({module: text})) >= 1


def test_what_is_allowed_is_not_found() -> None:
    good = {
        "veilmart.x": "from broker_node import run\nfrom customer_node import market",
        "broker_node.x": "from common import bus\nfrom broker_node import orders\nimport msgspec",
    }
    assert foreign_imports(good) == guarded_imports(good) == []


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("broker_node.x", "import paho.mqtt.client as mqtt"),
        ("common.node", "from paho.mqtt.client import Client"),
        ("broker_node.mint", "import gmpy2"),
        ("common.codec", "from cryptography.hazmat.primitives import hashes"),
        ("customer_node.cart", "def f():\n    import cryptography"),
    ],
)
def test_a_planted_guarded_import_is_found(module: str, text: str) -> None:
    assert len(guarded_imports({module: text})) == 1


def test_a_planted_cycle_is_found() -> None:
    around = {
        "common.a": "from common import b",
        "common.b": "from common.c import thing",
        "common.c": "def f():\n    import common.a",
        "common.d": "from common import a",
    }
    assert cycles(around) == ["common.a -> common.b -> common.c -> common.a"]
    assert cycles({**around, "common.c": ""}) == []
