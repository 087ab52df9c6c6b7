"""A wrong configuration: one line that names the file and the key, and a hint that says what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cli import Ran, veilmart

from broker_node.mint import Mint
from common import clock, coins, config
from common.bus import TlsFiles
from common.client_ids import client_id
from common.config import Limits, load_limits
from common.errors import UntrustedError
from common.messages import IssuerKey
from mosquitto import free_ports
from veilmart.init import init_market


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A market with the merchant `sports` and a customer, whose broker has no coin keys yet."""
    home = tmp_path_factory.mktemp("settings") / "market"
    public, nodes = free_ports(2)
    init_market(home, public_port=public, node_port=nodes, now_ms=clock.now_ms())
    veilmart("merchant", "init", "sports", "--name", "Sports", home=home)
    request, certificate = home / "merchants/sports/identity.csr", home / "sports.crt"
    veilmart("ca", "sign", request, "--out", certificate, home=home)
    assert veilmart("merchant", "install-cert", certificate, home=home).code == 0
    assert veilmart("join", home / "market.json", "--no-passphrase", home=home).code == 0
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "market"))


def names(ran: Ran, path: Path, *words: str) -> None:
    """Assert that an error names its file, these words, and what to do, each in one line."""
    error = ran.error
    assert error["code"] != "internal", error
    assert str(path) in error["message"] or f"in {path.parent}" in error["message"], error
    assert "\n" not in error["message"] + error["hint"]
    assert error["hint"]
    for word in words:
        assert word in error["message"] + " " + error["hint"], error


# --- limits.toml ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ordr_deadline_ms = 7_200_000", ("ordr_deadline_ms", "Did you mean order_deadline_ms?")),
        ("utterly_else = 1", ("utterly_else", "Remove the line")),
        ("cell_window = 'many'", ("cell_window", "expected `int`, got `str`")),
        ("tickets_per_day = -1", ("tickets_per_day", "expected `int` >= 0")),
        ("freshness_ms = 0", ("freshness_ms", "expected `int` >= 1")),
        ("order_deadline_ms = 100_000_000", ("order_deadline_ms", f"<= {config.DAY_MS}")),
        ("commission_basis_points = 10_001", ("commission_basis_points", "<= 10000")),
        ("sign_up = 'maybe'", ("sign_up", "maybe")),
        ("cell_window = 4", ("cell_window", "the default is 64")),
        ("cells_under_way = 20", ("cells_under_way", "the default is 256")),
        ("top_denomination = 1000", ("top_denomination", "power of two", "the default is 16384")),
        ("top_denomination = 256", ("top_denomination", f"expected `int` >= {max(coins.BUNDLE)}")),
        ("top_up_minimum = 100_001", ("top_up_minimum", "above top_up_maximum")),
        ("order_deadline_ms = 5000", ("order_deadline_minimum_ms", "above order_deadline_ms")),
        ("== 1", ("not TOML", "line 1")),
        ("\xff", ("not TOML", "UTF-8")),
    ],
)
def test_a_wrong_limit_is_named_with_what_to_do(line: str, words: tuple[str, ...], home: Path) -> None:
    for node in ("broker", "merchants/sports"):
        path = home / node / "limits.toml"
        path.write_bytes(line.encode("latin-1"))
        ran = veilmart(node.partition("/")[0].removesuffix("s"), "run", "--json", home=home)
        assert (ran.code, ran.error["code"]) == (2, "usage")
        names(ran, path, *words)


def test_every_default_is_within_its_own_bounds(tmp_path: Path) -> None:
    values = {name: getattr(Limits(), name) for name in Limits.__struct_fields__}
    lines = (
        f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {value}"
        for name, value in values.items()
    )
    (tmp_path / "limits.toml").write_text("\n".join(lines))
    assert load_limits(tmp_path) == Limits()


# --- What else a home holds ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "file", "content", "code", "words"),
    [
        ("broker run", "broker/gateway.toml", "kind = 'cash'", 2, ("kind", "cash", "broker gateway use")),
        ("broker run", "broker/gateway.toml", "knd = 'none'", 2, ("knd", "Did you mean kind?")),
        ("broker run", "broker/gateway.toml", "api_base = 'http://x'", 2, ("api_base", "https")),
        ("broker run", "broker/market.json", "{", 1, ("not a market file", "Ask the market's operator")),
        ("broker run", "broker/market.json", '{"veilmart_market": 2}', 1, ("veilmart_market",)),
        ("broker run", "broker/market.json", None, 2, ("cannot read",)),
        ("broker run", "broker/identity.crt", "x", 1, ("not a certificate", "ca renew")),
        ("broker run", "broker/identity.crt", None, 1, ("No such file",)),
        ("broker run", "broker/identity.key", "x", 1, ("private key", "backup")),
        ("broker run", "broker/crl.pem", "x", 1, ("revocation list", "ca/crl.pem")),
        ("broker run", "broker/log.key", "x", 1, ("holds no key", "backup")),
        ("broker run", "broker/hello/0.key", "x", 1, ("holds no key", "Do not remove it")),
        ("broker account list", "broker/broker.db", "no store at all" * 200, 1, ("damaged", "operating.md")),
        ("merchant run", "merchants/sports/merchant.toml", "name = 3", 2, ("name", "expected `str`")),
        ("merchant run", "merchants/sports/merchant.toml", "nmae = 'x'", 2, ("nmae", "Did you mean name?")),
        ("merchant run", "merchants/sports/merchant.toml", "", 2, ("name is missing", "`name = …`")),
        ("merchant run", "merchants/sports/merchant.toml", None, 2, ("cannot read", "merchant init")),
        ("merchant run", "merchants/sports/market.json", "{", 1, ("not a market file",)),
        ("merchant run", "merchants/sports/identity.crt", "x", 1, ("not a certificate", "install-cert")),
        ("merchant run", "merchants/sports/prekeys/order/0.key", "x", 1, ("holds no key",)),
        ("merchant product list", "merchants/sports/merchant.db", "none" * 999, 1, ("damaged",)),
        ("bus run", "bus/mosquitto.conf", "listener 1883", 2, ("listener PORT HOST",)),
        (
            "bus run",
            "bus/mosquitto.conf",
            "listener 99999 a\nlistener 1 a",
            2,
            ("listener PORT HOST", "65535"),
        ),
        ("broker run", "broker/identity.key", None, 2, ("no broker in", "veilmart init", "--home")),
        ("bus run", "bus/mosquitto.conf", None, 2, ("no bus in", "veilmart init", "--home")),
        ("orders", "customer/market.json", "{", 1, ("not a market file",)),
        ("orders", "customer/profile.db", "none" * 999, 1, ("damaged",)),
        ("status", "market.json", '{"veilmart_market": 1}', 1, ("currency",)),
    ],
)
def test_a_wrong_file_is_named_with_what_to_do(
    command: str, file: str, content: str | None, code: int, words: tuple[str, ...], home: Path
) -> None:
    path = home / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    ran = veilmart(*command.split(), "--json", home=home)
    assert ran.code == code
    names(ran, path, *words)
    plain = veilmart(*command.split(), home=home)
    assert len(plain.err.splitlines()) == 2


@pytest.mark.parametrize("listener", [None, 0, 1])
def test_what_mosquitto_would_start_without_is_demanded(listener: int | None, home: Path) -> None:
    path = home / "bus/mosquitto.conf"
    before, *listeners = path.read_text().split("\nlistener ")
    parts = [f"{before}\n", *(f"listener {part}\n" for part in listeners)]
    place = 0 if listener is None else listener + 1
    where = "above the listeners" if listener is None else f"below `{parts[place].splitlines()[0]}`"
    safe = {"per_listener_settings", "allow_anonymous", "acl_file", "certfile", "keyfile"}
    safe |= {"cafile", "crlfile", "require_certificate", "use_identity_as_username"}
    tried = [line for line in parts[place].splitlines() if line.partition(" ")[0] in safe]
    # The nodes' own `allow_anonymous false` is what Mosquitto takes for granted.
    assert len(tried) == {0: 1, 1: 4, 2: 8}[place]
    for line in set(tried) - {"allow_anonymous false"}:
        spoilt = parts[place].replace(f"{line}\n", "")
        path.write_text("".join((*parts[:place], spoilt, *parts[place + 1 :])))
        ran = veilmart("bus", "run", "--json", home=home)
        assert ran.code == 2
        names(ran, path, f"`{line.split()[0]}` is missing {where}", f"`{line}`")
        if line.endswith(" true"):
            turned = parts[place].replace(line, line.replace(" true", " false"))
            path.write_text("".join((*parts[:place], turned, *parts[place + 1 :])))
            ran = veilmart("bus", "run", "--json", home=home)
            assert ran.code == 2
            names(ran, path, f"`{line.split()[0]}` has to be true {where}", f"`{line}`")


def test_a_bus_that_takes_no_frame_of_cells_is_not_started(home: Path) -> None:
    path = home / "bus/mosquitto.conf"
    made = path.read_text()
    (line,) = (each for each in made.splitlines() if each.startswith("max_packet_size"))
    assert line == f"max_packet_size {config.MAXIMUM_FRAME + config.KIB}"
    path.write_text(made.replace(line, "max_packet_size 197632"))
    for command in (("bus", "run"), ("init",)):
        ran = veilmart(*command, "--json", home=home)
        assert ran.code == 2
        names(ran, path, "`max_packet_size` is below", f"`{line}`")


def test_tls_files_that_cannot_be_used_are_named(home: Path) -> None:
    broker = home / "broker"
    files = TlsFiles(broker / "ca.crt", broker / "identity.crt", broker / "identity.key")
    files.context()
    (broker / "identity.key").write_text("x")
    with pytest.raises(UntrustedError, match=r"identity\.crt or its key cannot be used"):
        files.context()
    (broker / "ca.crt").unlink()
    with pytest.raises(UntrustedError, match=r"ca\.crt cannot be used for TLS: it is missing"):
        files.context()


def test_a_damaged_client_id_and_a_lost_coin_key_are_named(tmp_path: Path) -> None:
    (tmp_path / "client-id-main").touch()
    with pytest.raises(UntrustedError, match="client-id-main is damaged"):
        client_id(tmp_path, "main")
    issuer = IssuerKey(key_id=bytes(8), purpose="coin", value=1, month="2026-01", public=b"k" * 300)
    with pytest.raises(UntrustedError, match=r"\.pem is missing or damaged"):
        Mint(tmp_path, [issuer])


# --- Variables -----------------------------------------------------------------------------------------


def test_a_variable_that_holds_nonsense_is_named(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    cases = [
        (("merchant", "product", "list"), "VEILMART_HOME", str(file), "no folder"),
        (("orders",), "VEILMART_PROFILE", str(file), "no folder"),
        (("merchant", "product", "list"), "VEILMART_MERCHANT", "../../etc", "cannot be a merchant's id"),
    ]
    for words, name, value, told in cases:
        ran = veilmart(*words, "--json", **{"VEILMART_HOME": str(home), name: value})
        assert (ran.code, ran.error["code"]) == (2, "usage"), name
        assert name in ran.error["message"], ran.error
        assert told in ran.error["message"], ran.error
        assert ran.error["hint"], name
    ran = veilmart("orders", "--json", home=home, VEILMART_PROFILE=str(tmp_path / "nobody"))
    assert (ran.code, str(tmp_path / "nobody") in ran.error["message"]) == (2, True)


def test_a_passphrase_or_key_file_that_is_not_there_is_named(home: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    assert veilmart("wallet", "passphrase", "--new-key-file", key, home=home).code == 0
    ran = veilmart("orders", "--json", home=home, VEILMART_KEY_FILE=str(tmp_path / "gone"))
    assert (ran.code, str(tmp_path / "gone") in ran.error["message"]) == (2, True)


def test_settings_that_are_right_are_read(tmp_path: Path) -> None:
    (tmp_path / "limits.toml").write_text('order_deadline_ms = 7_200_000\nsign_up = "invite"\n')
    assert (load_limits(tmp_path).order_deadline_ms, load_limits(tmp_path).sign_up) == (7_200_000, "invite")
