"""A real Mosquitto for tests, on free ports and with the product's own configuration, and clients for it.

    with make_market(tmp_path) as market, market.customer() as customer:
        customer.subscribe("veilmart/v1/broker/card")

Whether something did *not* arrive is shown without waiting: Mosquitto handles one packet after the other,
so what was refused before a marker was sent can't arrive after it (`Client.until`).
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import signal
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from common.clock import now_ms
from common.market_file import MarketFile
from veilmart import bus, ca
from veilmart.init import InitReport, init_market

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from common.keys import KeyType

WAIT_SECONDS = 15.0
SUCCESS = 0
NOT_AUTHORIZED = 0x87  # MQTT 5.0, section 2.4


class RefusedConnectionError(Exception):
    """The listener did not let the client in."""


def free_ports(count: int) -> list[int]:
    """Return ports that nobody uses, all different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class RunningMosquitto:
    """Mosquitto on a bus's home. `process` is it and nothing around it."""

    def __init__(self, bus_home: Path) -> None:
        self.bus_home = bus_home
        self.log_path = bus_home / "mosquitto.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until both listeners accept."""
        listeners = bus.read_listeners(self.bus_home)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [bus.find_mosquitto(), "-c", bus.CONFIGURATION_FILE],
                cwd=self.bus_home,
                stderr=log,
                stdout=log,
            )
        deadline = time.monotonic() + WAIT_SECONDS
        for listener in listeners:
            while True:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"Mosquitto did not start: {self.log_path.read_text()}")
                try:
                    socket.create_connection((listener.host, listener.port), timeout=WAIT_SECONDS).close()
                except ConnectionRefusedError:
                    time.sleep(0.01)
                else:
                    break

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it: SIGTERM saves its state first, SIGKILL is a crash."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=WAIT_SECONDS)
            self.process = None

    def reload(self) -> None:
        """Make it read certificates and revocation list again; takes effect at its next turn."""
        if self.process is None:
            raise AssertionError("Mosquitto is not running")
        self.process.send_signal(signal.SIGHUP)


@dataclass
class Market:
    """A market's homes below `root`, and its running Mosquitto."""

    root: Path
    report: InitReport
    key_type: KeyType
    mosquitto: RunningMosquitto = field(init=False)

    def __post_init__(self) -> None:
        self.mosquitto = RunningMosquitto(self.report.bus_home)

    @property
    def file(self) -> MarketFile:
        return self.report.market

    @property
    def ca_path(self) -> Path:
        return self.report.ca_home / ca.CA_CERTIFICATE_FILE

    def merchant_home(self, merchant_id: str) -> Path:
        """Return the home of a merchant with key and certificate, made at the first call."""
        home = self.root / f"merchant-{merchant_id}"
        if not (home / ca.IDENTITY_CERTIFICATE_FILE).exists():
            request = ca.make_request(home, merchant_id, key_type=self.key_type)
            pem = ca.sign_csr(self.report.ca_home, request, merchant_id, now_ms=now_ms())
            ca.install_certificate(home, pem, self.file.ca(), now_ms=now_ms())
        return home

    def customer(self, client_id: str | None = None, **options: Any) -> Client:
        """Return a client of the public listener; by default with a fresh session id."""
        return Client(client_id or secrets.token_hex(16), self._context(), self.file.public.port, **options)

    def broker(self, **options: Any) -> Client:
        """Return a client of the node listener with the broker's certificate."""
        return self.node(
            self.report.broker_home / ca.IDENTITY_CERTIFICATE_FILE,
            self.report.broker_home / ca.IDENTITY_KEY_FILE,
            **options,
        )

    def merchant(self, merchant_id: str, **options: Any) -> Client:
        """Return a client of the node listener with a merchant's certificate."""
        home = self.merchant_home(merchant_id)
        return self.node(home / ca.IDENTITY_CERTIFICATE_FILE, home / ca.IDENTITY_KEY_FILE, **options)

    def node(
        self,
        certificate: Path | None = None,
        key: Path | None = None,
        client_id: str | None = None,
        **options: Any,
    ) -> Client:
        """Return a client of the node listener with any certificate, or none."""
        context = self._context()
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        return Client(client_id or secrets.token_hex(16), context, self.file.nodes.port, **options)

    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_path)


@contextlib.contextmanager
def make_market(root: Path, *, key_type: KeyType = "ed25519", **options: Any) -> Iterator[Market]:
    """Make a market in `root` and run its Mosquitto."""
    public_port, node_port = free_ports(2)
    report = init_market(
        root / "market",
        public_port=public_port,
        node_port=node_port,
        key_type=key_type,
        now_ms=now_ms(),
        **options,
    )
    market = Market(root, report, key_type)
    market.mosquitto.start()
    try:
        yield market
    finally:
        market.mosquitto.end()


class Client:
    """An MQTT 5 client whose calls return once Mosquitto has answered."""

    def __init__(
        self,
        client_id: str,
        context: ssl.SSLContext,
        port: int,
        *,
        username: str | None = None,
        clean_start: bool = True,
        session_expiry: int = 0,
    ) -> None:
        self.client_id = client_id
        self.session_present = False
        self._messages: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._events: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5, reconnect_on_failure=False
        )
        self._client.tls_set_context(context)
        if username is not None:
            self._client.username_pw_set(username, "anything")
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = lambda _c, _u, _f, code, _p: self._events.put(("disconnect", code))
        self._client.on_subscribe = lambda _c, _u, _m, codes, _p: self._events.put(
            ("subscribe", codes[0].value)
        )
        self._client.on_publish = lambda _c, _u, _m, code, _p: self._events.put(("publish", code.value))
        self._client.on_message = lambda _c, _u, message: self._messages.put((message.topic, message.payload))
        self._port, self._clean_start = port, clean_start
        self._properties = Properties(PacketTypes.CONNECT)
        self._properties.SessionExpiryInterval = session_expiry

    def __enter__(self) -> Self:
        try:
            self._client.connect(
                "localhost", self._port, clean_start=self._clean_start, properties=self._properties
            )
            self._client.loop_start()
            event, value = self._events.get(timeout=WAIT_SECONDS)
        except OSError as error:
            self._close()
            raise RefusedConnectionError(str(error)) from error
        if (event, value) != ("connect", SUCCESS):
            self._close()
            raise RefusedConnectionError(f"{event}: {value}")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._close()

    def subscribe(self, topic_filter: str) -> int:
        """Subscribe with QoS 1; return the SUBACK's reason code."""
        self._client.subscribe(topic_filter, qos=1)
        return int(self._answer("subscribe"))

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Publish with QoS 1; return the PUBACK's reason code."""
        self.send(topic, payload, retain=retain)
        return int(self._answer("publish"))

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish with QoS 1 and await nothing."""
        self._client.publish(topic, payload, qos=1, retain=retain)

    def until(self, payload: bytes) -> list[tuple[str, bytes]]:
        """Return what arrives before and with the message that has this payload."""
        arrived = []
        while not arrived or arrived[-1][1] != payload:
            arrived.append(self._messages.get(timeout=WAIT_SECONDS))
        return arrived

    def await_disconnect(self) -> None:
        """Return once Mosquitto has ended the connection."""
        self._answer("disconnect")

    def _answer(self, expected: str) -> Any:
        event, value = self._events.get(timeout=WAIT_SECONDS)
        if event != expected:
            raise AssertionError(f"awaited {expected}, got {event}: {value}")
        return value

    def _on_connect(
        self, _client: object, _userdata: object, flags: Any, code: Any, _properties: object
    ) -> None:
        self.session_present = flags.session_present
        self._events.put(("connect", code.value))

    def _close(self) -> None:
        self._client.loop_stop()
        # paho leaves the pair that wakes its thread to the garbage collector.
        self._client._reset_sockets(sockpair_only=True)
        # A connection that was refused half way stays open otherwise.
        sock = self._client.socket()
        if sock is not None:
            sock.close()
