"""Who may connect to Mosquitto, and who reads and writes what: on a real one, over TLS, with impostors."""

from __future__ import annotations

import os
import secrets
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from common import config, keys, topics, validity
from common.bus import Address, Connection, Settings, TlsFiles
from common.clock import now_ms
from common.errors import BusUnreachableError, UsageError
from mosquitto import (
    NOT_AUTHORIZED,
    SUCCESS,
    WAIT_SECONDS,
    Market,
    RefusedConnectionError,
    free_ports,
    make_market,
)
from veilmart import bus, ca
from veilmart.init import init_market

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NO_MATCHING_SUBSCRIBERS = 0x10
ACCEPTED = {SUCCESS, NO_MATCHING_SUBSCRIBERS}
EVENT = topics.audit_event("order.captured")
SPENT = topics.spent_chunk(bytes(8), 0)


@pytest.fixture(scope="module", params=keys.KEY_TYPES)
def market(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    with make_market(tmp_path_factory.mktemp("market"), key_type=request.param) as running:
        yield running


def other_market_identity(folder: Path, name: str) -> tuple[Path, Path]:
    """Make `name`'s certificate at a CA of its own; return the paths of certificate and key."""
    ca.create_ca(folder / "ca", now_ms=now_ms())
    key = keys.IdentityKey.generate()
    key.save(folder / "key")
    if name == "broker":
        pem = ca.certify_broker(folder / "ca", key.public, now_ms=now_ms())
    else:
        pem = ca.sign_csr(folder / "ca", ca.build_request(key, name), name, now_ms=now_ms())
    (folder / "crt").write_bytes(pem)
    return folder / "crt", folder / "key"


# Who gets in at the node listener.


def test_broker_and_merchants_get_in(market: Market) -> None:
    with market.broker(), market.merchant("alpha"), market.merchant("beta"):
        pass


def test_no_certificate_is_refused(market: Market) -> None:
    with pytest.raises(RefusedConnectionError), market.node():
        pass


def test_a_claimed_username_is_no_certificate(market: Market) -> None:
    with pytest.raises(RefusedConnectionError), market.node(username="broker"):
        pass


@pytest.mark.parametrize("name", ["broker", "alpha"])
def test_another_ca_is_refused(market: Market, tmp_path: Path, name: str) -> None:
    certificate, key = other_market_identity(tmp_path, name)
    with pytest.raises(RefusedConnectionError), market.node(certificate, key):
        pass


def test_mosquittos_own_certificate_is_no_client(market: Market) -> None:
    home = market.report.bus_home
    with pytest.raises(RefusedConnectionError), market.node(home / "server.crt", home / "server.key"):
        pass


def test_a_certificate_without_its_key_is_refused(market: Market, tmp_path: Path) -> None:
    thief = keys.IdentityKey.generate(market.key_type)
    thief.save(tmp_path / "key")
    home = market.merchant_home("alpha")
    with pytest.raises(OSError, match="mismatch"):
        market.node(home / "identity.crt", tmp_path / "key")


def test_an_expired_certificate_is_refused(market: Market) -> None:
    a_year_and_ten_minutes_ago = now_ms() - (365 * 24 * 60 + 10) * 60 * 1000
    home = market.root / "merchant-expired"
    request = ca.make_request(home, "expired", key_type=market.key_type)
    pem = ca.sign_csr(market.report.ca_home, request, "expired", now_ms=a_year_and_ten_minutes_ago)
    (home / "identity.crt").write_bytes(pem)
    with pytest.raises(RefusedConnectionError), market.node(home / "identity.crt", home / "identity.key"):
        pass
    assert "revoked or have expired (SSLV3_ALERT_CERTIFICATE_EXPIRED)" in why_not(market, "expired")


def test_revocation_refuses_the_next_connection(market: Market) -> None:
    with market.merchant("gone") as merchant:
        crl = ca.revoke(market.report.ca_home, "gone", now_ms=now_ms())
        changed = validity.install_crl(market.report.bus_home / "crl.pem", crl.read_bytes(), market.file.ca())
        assert changed
        market.mosquitto.reload()
        # The list is read at Mosquitto's next turn, and this one was let in before.
        assert merchant.publish(topics.merchant_out("gone"), b"still here") in ACCEPTED
    with pytest.raises(RefusedConnectionError), market.merchant("gone"):
        pass
    assert "revoked or have expired (SSLV3_ALERT_CERTIFICATE_REVOKED)" in why_not(market, "gone")
    with market.merchant("alpha"), market.broker():
        pass


def why_not(market: Market, merchant: str) -> str:
    """What a node of ours says where Mosquitto does not let it in."""
    home = market.root / f"merchant-{merchant}"
    files = TlsFiles(market.ca_path, home / "identity.crt", home / "identity.key")
    address = Address("localhost", market.file.nodes.port, files.context())
    connection = Connection(Settings(address, "c" * 32, (topics.broker_card(),)))
    try:
        while not connection.failure:
            connection.wait(WAIT_SECONDS)
    finally:
        connection.abandon()
    assert not connection.ready
    return connection.failure


def test_a_client_that_is_closed_leaves_no_socket(market: Market) -> None:
    # The collector would find it later, in some other test, and fail that one.
    with market.customer() as customer:
        pair = customer._client._sockpairR, customer._client._sockpairW
    assert [each.fileno() for each in pair] == [-1, -1]


# What customers may.


def test_a_session_reaches_the_broker_and_back(market: Market) -> None:
    with market.broker() as broker, market.customer() as customer:
        session = bytes.fromhex(customer.client_id)
        assert broker.subscribe(topics.ALL_SESSIONS_UP) == 1
        assert customer.subscribe(topics.session_down(session)) == 1
        assert customer.publish(topics.session_up(session), b"up") == SUCCESS
        assert broker.until(b"up") == [(topics.session_up(session), b"up")]
        assert broker.publish(topics.session_down(session), b"down") == SUCCESS
        assert customer.until(b"down") == [(topics.session_down(session), b"down")]


@pytest.mark.parametrize(
    "topic_filter", ["#", "veilmart/v1/session/+/+", "veilmart/v1/session/{victim}/down"]
)
def test_another_customers_session_is_not_readable(market: Market, topic_filter: str) -> None:
    with market.broker() as broker, market.customer() as victim, market.customer() as thief:
        down = topics.session_down(bytes.fromhex(victim.client_id))
        thief.subscribe(topic_filter.format(victim=victim.client_id))
        own = topics.session_down(bytes.fromhex(thief.client_id))
        thief.subscribe(own)
        victim.subscribe(down)
        broker.publish(down, b"secret")
        victim.publish(topics.session_up(bytes.fromhex(victim.client_id)), b"secret")
        assert victim.until(b"secret") == [(down, b"secret")]
        broker.publish(own, b"marker")
        assert {topic for topic, _ in thief.until(b"marker")} == {own}


def test_another_customers_session_is_not_writable(market: Market) -> None:
    with market.broker() as broker, market.customer() as victim, market.customer() as thief:
        session = bytes.fromhex(victim.client_id)
        broker.subscribe(topics.ALL_SESSIONS_UP)
        victim.subscribe(topics.session_down(session))
        assert thief.publish(topics.session_up(session), b"forged") == NOT_AUTHORIZED
        assert thief.publish(topics.session_down(session), b"forged") == NOT_AUTHORIZED
        assert victim.publish(topics.session_up(session), b"marker") == SUCCESS
        assert broker.until(b"marker") == [(topics.session_up(session), b"marker")]
        broker.publish(topics.session_down(session), b"marker")
        assert victim.until(b"marker") == [(topics.session_down(session), b"marker")]


def test_a_customer_does_not_read_its_own_up_nor_write_its_own_down(market: Market) -> None:
    with market.broker() as broker, market.customer() as customer:
        session = bytes.fromhex(customer.client_id)
        customer.subscribe("#")
        assert customer.publish(topics.session_up(session), b"mine") in ACCEPTED
        assert customer.publish(topics.session_down(session), b"forged") == NOT_AUTHORIZED
        broker.publish(topics.session_down(session), b"marker")
        assert customer.until(b"marker")[-1] == (topics.session_down(session), b"marker")
        assert broker.publish(EVENT, b"second") in ACCEPTED
        assert {payload for _, payload in customer.until(b"second")}.isdisjoint({b"mine", b"forged"})


NODE_TOPICS = [
    topics.broker_card(),
    topics.broker_status(),
    topics.merchant_card("alpha"),
    topics.merchant_status("alpha"),
    topics.merchant_in("alpha"),
    topics.merchant_out("alpha"),
    topics.merchant_cells("alpha"),
    EVENT,
    topics.audit_checkpoint(),
    SPENT,
]
SECRET_TOPICS = [topics.merchant_in("alpha"), topics.merchant_out("alpha"), topics.merchant_cells("alpha")]


@pytest.mark.parametrize("username", [None, "broker", "alpha", "+", "#"])
def test_a_public_client_writes_none_of_the_nodes_topics(market: Market, username: str | None) -> None:
    with market.customer(username=username) as stranger:
        for topic in NODE_TOPICS:
            assert stranger.publish(topic, b"forged", retain=True) == NOT_AUTHORIZED


@pytest.mark.parametrize("client_id", ["+", "#", "../merchant/alpha", "+/down", "a/b"])
def test_a_client_id_with_wildcards_opens_nothing(market: Market, client_id: str) -> None:
    try:
        stranger = market.customer(client_id).__enter__()
    except RefusedConnectionError:
        return
    try:
        session = secrets.token_bytes(16)
        stranger.subscribe("veilmart/v1/#")
        for topic in (*NODE_TOPICS, topics.session_up(session), topics.session_down(session)):
            assert stranger.publish(topic, b"forged") == NOT_AUTHORIZED
        with market.broker() as broker:
            broker.publish(topics.session_down(session), b"secret")
            broker.publish(topics.merchant_in("alpha"), b"secret")
            broker.publish(EVENT, b"marker")
        assert all(payload != b"secret" for _, payload in stranger.until(b"marker"))
    finally:
        stranger.__exit__()


@pytest.mark.parametrize("username", [None, "broker", "alpha"])
def test_hash_shows_only_what_is_public(market: Market, username: str | None) -> None:
    session = secrets.token_bytes(16)
    with (
        market.broker() as broker,
        market.merchant("alpha") as alpha,
        market.customer(session.hex()) as customer,
        market.customer(username=username) as stranger,
    ):
        for topic_filter in ("#", "$SYS/#", "veilmart/v1/merchant/+/in", "veilmart/v1/session/+/up"):
            stranger.subscribe(topic_filter)
        own = topics.session_down(bytes.fromhex(stranger.client_id))
        stranger.subscribe(own)
        public = [topics.broker_card(), topics.broker_status(), EVENT, topics.audit_checkpoint(), SPENT]
        for topic in [*public, topics.merchant_in("alpha"), topics.session_down(session)]:
            assert broker.publish(topic, b"content") in ACCEPTED
        shown = [topics.merchant_card("alpha"), topics.merchant_status("alpha")]
        for topic in [*shown, topics.merchant_out("alpha"), topics.merchant_cells("alpha")]:
            assert alpha.publish(topic, b"content") in ACCEPTED
        assert customer.publish(topics.session_up(session), b"content") in ACCEPTED
        broker.publish(own, b"marker")
        seen = {topic for topic, payload in stranger.until(b"marker") if payload == b"content"}
        # Whoever claims a username loses even what the nameless may read.
        assert seen == ({*public, *shown} if username is None else set())


def test_a_nodes_client_id_gives_a_stranger_none_of_its_messages(market: Market) -> None:
    node_id = secrets.token_hex(16)
    with market.broker(client_id=node_id, clean_start=False, session_expiry=600) as broker:
        broker.subscribe(topics.ALL_MERCHANTS_OUT)
        broker.subscribe(topics.ALL_SESSIONS_UP)
    session = secrets.token_bytes(16)
    with market.merchant("alpha") as alpha, market.customer(session.hex()) as customer:
        assert alpha.publish(topics.merchant_out("alpha"), b"queued") == SUCCESS
        with market.customer(node_id, username="broker", clean_start=False, session_expiry=600) as thief:
            assert alpha.publish(topics.merchant_out("alpha"), b"live") in ACCEPTED
            assert customer.publish(topics.session_up(session), b"live") in ACCEPTED
            own = topics.session_down(bytes.fromhex(node_id))
            thief.subscribe(own)
            with market.broker() as other:
                other.publish(own, b"marker")
            assert thief.until(b"marker") == [(own, b"marker")]


# What merchants may.


def test_a_merchant_reaches_the_broker_and_back(market: Market) -> None:
    with market.broker() as broker, market.merchant("alpha") as alpha:
        for topic_filter in (topics.ALL_MERCHANTS_OUT, topics.ALL_MERCHANTS_CELLS):
            broker.subscribe(topic_filter)
        alpha.subscribe(topics.merchant_in("alpha"))
        assert alpha.publish(topics.merchant_out("alpha"), b"out") == SUCCESS
        assert alpha.publish(topics.merchant_cells("alpha"), b"cells") == SUCCESS
        assert broker.until(b"cells") == [
            (topics.merchant_out("alpha"), b"out"),
            (topics.merchant_cells("alpha"), b"cells"),
        ]
        assert broker.publish(topics.merchant_in("alpha"), b"in") == SUCCESS
        assert alpha.until(b"in") == [(topics.merchant_in("alpha"), b"in")]


def test_a_merchant_reads_broker_card_and_status(market: Market) -> None:
    with market.broker() as broker, market.merchant("alpha") as alpha:
        alpha.subscribe(topics.broker_card())
        alpha.subscribe(topics.broker_status())
        broker.publish(topics.broker_card(), b"the card")
        broker.publish(topics.broker_status(), b"the status")
        assert {(topics.broker_card(), b"the card"), (topics.broker_status(), b"the status")} <= set(
            alpha.until(b"the status")
        )


def test_a_merchant_neither_reads_nor_writes_anothers(market: Market) -> None:
    session = secrets.token_bytes(16)
    with (
        market.broker() as broker,
        market.merchant("alpha") as alpha,
        market.merchant("beta") as beta,
        market.customer(session.hex()) as customer,
    ):
        for topic in (
            topics.merchant_card("beta"),
            topics.merchant_status("beta"),
            topics.merchant_in("beta"),
            topics.merchant_out("beta"),
            topics.merchant_cells("beta"),
            topics.merchant_in("alpha"),
            topics.broker_card(),
            topics.broker_status(),
            topics.session_up(session),
            topics.session_down(session),
            EVENT,
            topics.audit_checkpoint(),
            SPENT,
        ):
            assert alpha.publish(topic, b"forged") == NOT_AUTHORIZED, topic
        for topic_filter in ("#", topics.merchant_in("beta"), "veilmart/v1/merchant/+/in"):
            alpha.subscribe(topic_filter)
        assert broker.publish(topics.merchant_in("beta"), b"secret") in ACCEPTED
        assert beta.publish(topics.merchant_out("beta"), b"secret") in ACCEPTED
        assert beta.publish(topics.merchant_cells("beta"), b"secret") in ACCEPTED
        assert customer.publish(topics.session_up(session), b"secret") in ACCEPTED
        broker.publish(topics.merchant_in("alpha"), b"marker")
        assert all(payload != b"secret" for _, payload in alpha.until(b"marker"))


def test_the_broker_clears_a_revoked_merchants_card(market: Market) -> None:
    with market.merchant("alpha") as alpha:
        assert alpha.publish(topics.merchant_card("alpha"), b"card", retain=True) in ACCEPTED
    with market.broker() as broker:
        assert broker.publish(topics.merchant_card("alpha"), b"", retain=True) in ACCEPTED
        with market.customer() as customer:
            customer.subscribe(topics.ALL_MERCHANT_CARDS)
            broker.publish(topics.merchant_card("beta"), b"marker")
            assert customer.until(b"marker") == [(topics.merchant_card("beta"), b"marker")]


def test_a_full_frame_passes_and_a_larger_packet_does_not(market: Market) -> None:
    frame = secrets.token_bytes(config.MAXIMUM_FRAME)
    with market.broker() as broker, market.customer() as customer:
        session = bytes.fromhex(customer.client_id)
        broker.subscribe(topics.session_up(session))
        assert customer.publish(topics.session_up(session), frame) == SUCCESS
        assert broker.until(frame) == [(topics.session_up(session), frame)]
        customer.send(topics.session_up(session), frame + bytes(1024))
        customer.await_disconnect()
        assert broker.publish(topics.session_down(session), b"too late") == NO_MATCHING_SUBSCRIBERS


def test_the_log_names_no_client_and_no_topic(market: Market) -> None:
    with market.customer() as customer, pytest.raises(RefusedConnectionError), market.node():
        customer.publish(topics.broker_card(), b"forged")
    log = market.mosquitto.log_path.read_text()
    assert "peer did not return a certificate" in log
    assert customer.client_id not in log
    assert "veilmart/v1/session" not in log


# Running it.


RUN_BUS = "import sys; from pathlib import Path; from veilmart.bus import run_bus; sys.exit(run_bus(Path(sys.argv[1]), lambda line: print(line, flush=True)))"  # fmt: skip # noqa: E501 - one program


@pytest.fixture
def bus_home(tmp_path: Path) -> Path:
    public_port, node_port = free_ports(2)
    return init_market(tmp_path, public_port=public_port, node_port=node_port, now_ms=now_ms()).bus_home


@pytest.fixture
def running_bus(bus_home: Path) -> Iterator[subprocess.Popen[str]]:
    # From the parent of the home, so that a path relative to our own folder would show.
    with subprocess.Popen(
        [sys.executable, "-c", RUN_BUS, bus_home],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def child_of(process: subprocess.Popen[str]) -> int:
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:  # noqa: PTH123 - not a file of ours
        return int(file.read())


def await_end(pid: int) -> None:
    descriptor = os.pidfd_open(pid)
    try:
        assert select.select([descriptor], [], [], WAIT_SECONDS)[0]
    finally:
        os.close(descriptor)


def test_the_bus_says_one_ready_line_and_ends_cleanly(running_bus: subprocess.Popen[str]) -> None:
    assert running_bus.stdout is not None
    assert running_bus.stdout.readline().startswith("bus ready: public 127.0.0.1:")
    running_bus.send_signal(signal.SIGTERM)
    assert running_bus.wait(WAIT_SECONDS) == 0
    assert running_bus.stdout.read() == ""


def test_mosquitto_does_not_outlive_a_killed_bus(running_bus: subprocess.Popen[str]) -> None:
    assert running_bus.stdout is not None
    running_bus.stdout.readline()
    mosquitto = child_of(running_bus)
    running_bus.kill()
    try:
        await_end(mosquitto)
    except ProcessLookupError:
        return


def test_a_replaced_revocation_list_is_read(running_bus: subprocess.Popen[str], bus_home: Path) -> None:
    assert running_bus.stdout is not None
    running_bus.stdout.readline()
    root = bus_home.parent
    report = init_market(root, now_ms=now_ms())
    market = Market(root, report, "ed25519")
    with market.merchant("gone"):
        pass
    crl = ca.revoke(report.ca_home, "gone", now_ms=now_ms())
    validity.install_crl(bus_home / "crl.pem", crl.read_bytes(), report.market.ca())
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            with market.merchant("gone"):
                time.sleep(0.1)
        except RefusedConnectionError:
            return
    pytest.fail("the revoked merchant still gets in")


def test_a_taken_port_is_said_clearly(bus_home: Path, running_bus: subprocess.Popen[str]) -> None:
    assert running_bus.stdout is not None
    running_bus.stdout.readline()
    with pytest.raises(BusUnreachableError, match=r"cannot listen on 127\.0\.0\.1 port"):
        bus.run_bus(bus_home, print)


def test_a_missing_mosquitto_is_said_with_the_way_to_install_it(
    bus_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_args, **_options: None)
    with pytest.raises(BusUnreachableError) as caught:
        bus.run_bus(bus_home, print)
    assert "apt-get install" in caught.value.hint


def test_no_bus_is_said_clearly(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no bus"):
        bus.run_bus(tmp_path, print)


def test_init_changes_nothing_when_repeated_even_after_a_crash_half_way(tmp_path: Path) -> None:
    def content() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}

    public_port, node_port = free_ports(2)
    init_market(tmp_path, currency="JPY", public_port=public_port, node_port=node_port, now_ms=now_ms())
    whole = content()
    report = init_market(tmp_path, currency="EUR", key_type="rsa3072", now_ms=now_ms())
    assert report.created == ()
    assert content() == whole
    for name in (
        "bus/mosquitto.conf",
        "bus/acl-nodes",
        "bus/server.crt",
        "broker/identity.crt",
        "broker/crl.pem",
    ):
        (tmp_path / name).unlink()
    (tmp_path / "broker/.identity.key.00.new").write_bytes(b"half a key")
    report = init_market(tmp_path, now_ms=now_ms())
    (tmp_path / "broker/.identity.key.00.new").unlink(missing_ok=True)
    assert len(report.created) == 5
    assert content() == whole


def test_homes_know_nothing_of_each_other(tmp_path: Path) -> None:
    report = init_market(tmp_path, now_ms=now_ms())
    for home in (report.ca_home, report.broker_home, report.bus_home):
        for path in home.rglob("*"):
            if path.is_file():
                assert str(tmp_path).encode() not in path.read_bytes(), path
                private = path.name.endswith(".key")
                assert path.stat().st_mode & 0o777 == (0o600 if private else 0o644) or path.name.startswith(
                    "."
                )
        assert home.stat().st_mode & 0o777 == 0o700
