"""The floor: a plaintext relay over the same four hops, on unmodified paho in a `select` loop.

    client -> up -> relay -> in -> server -> out -> relay -> down -> client

For orders the server answers a message with itself; for delivery the client asks for a window of cells and
the server sends them. Three processes and Mosquitto, QoS 1, TCP_NODELAY, nothing stored, nothing sealed.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from bench.figures import Figures, figures
from bench.processes import serve, tell

UP, DOWN, IN, OUT = (f"floor/{leg}" for leg in ("up", "down", "in", "out"))
IN_FLIGHT = 1000
STALLED_S = 20.0
SEQUENCE = 8
QUESTION = 8

OnMessage = Callable[["Peer", str, bytes], None]


class Peer:
    """One paho client and its loop."""

    def __init__(self, port: int, subscriptions: Sequence[str], on_message: OnMessage) -> None:
        self.subscribed = False
        client = self.client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        client.max_inflight_messages_set(IN_FLIGHT)
        client.on_socket_open = _set_nodelay
        # With these set paho queues packets until `loop_write`, which is a quarter faster.
        client.on_socket_register_write = lambda *_: None
        client.on_socket_unregister_write = lambda *_: None
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        self._subscriptions = [(topic, SubscribeOptions(qos=1)) for topic in subscriptions]
        self._handle = on_message
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho leaves it untyped
        properties.ReceiveMaximum = IN_FLIGHT
        client.connect("127.0.0.1", port, keepalive=60, properties=properties)
        while not self.subscribed:
            self.turn(1.0)

    def _on_connect(self, *_: Any) -> None:
        self.client.subscribe(self._subscriptions)

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        self._handle(self, message.topic, bytes(message.payload))

    def _on_subscribe(self, *_: Any) -> None:
        self.subscribed = True

    def publish(self, topic: str, payload: bytes) -> None:
        self.client.publish(topic, payload, qos=1)

    def turn(self, timeout_s: float) -> None:
        """Wait for the socket, then read, write and look after the connection."""
        client = self.client
        opened: Any = client.socket()
        readable, writable, _ = select.select(
            [opened], [opened] if client.want_write() else [], [], timeout_s
        )
        code = MQTTErrorCode.MQTT_ERR_SUCCESS
        if readable:
            code = client.loop_read()
        if writable or client.want_write():
            code = code or client.loop_write()
        code = code or client.loop_misc()
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise RuntimeError(f"the floor lost its connection: {mqtt.error_string(code)}")


def _set_nodelay(_client: mqtt.Client, _data: Any, opened: Any) -> None:
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Client:
    """Keeps a window of round trips, or of cells, under way and takes their time."""

    def __init__(self, port: int) -> None:
        self._arrived = 0
        self._begun: dict[int, float] = {}
        self._latencies: list[float] = []
        self._peer = Peer(port, [DOWN], self._came_back)

    def _came_back(self, _peer: Peer, _topic: str, payload: bytes) -> None:
        self._arrived += 1
        if not self._begun:
            return
        number = int.from_bytes(payload[:SEQUENCE], "big")
        self._latencies.append(time.perf_counter() - self._begun.pop(number))

    def run(self, window: int, count: int, size: int) -> Figures:
        self._latencies.clear()
        rest, sent, begun = bytes(size - SEQUENCE), 0, time.perf_counter()
        heard, seen = begun, 0
        while len(self._latencies) < count:
            while len(self._begun) < window and sent < count:
                self._begun[sent] = time.perf_counter()
                self._peer.publish(UP, sent.to_bytes(SEQUENCE, "big") + rest)
                sent += 1
            self._peer.turn(1.0)
            if len(self._latencies) > seen:
                heard, seen = time.perf_counter(), len(self._latencies)
            elif time.perf_counter() - heard > STALLED_S:
                raise RuntimeError("the floor stands still")
        return figures(count, time.perf_counter() - begun, self._latencies)

    def fetch(self, cells: int, window: int, windows: int, size: int) -> Figures:
        """Ask for `cells` cells of `size` bytes, `windows` windows of `window` cells under way."""
        self._arrived, asked, begun = 0, 0, time.perf_counter()
        heard, seen = begun, 0
        question = window.to_bytes(4, "big") + size.to_bytes(4, "big")
        while self._arrived < cells:
            while asked < cells and asked - self._arrived <= window * (windows - 1):
                self._peer.publish(UP, question)
                asked += window
            self._peer.turn(1.0)
            if self._arrived > seen:
                heard, seen = time.perf_counter(), self._arrived
            elif time.perf_counter() - heard > STALLED_S:
                raise RuntimeError("the floor stands still")
        return {"seconds": time.perf_counter() - begun}

    def handle(self, do: str, **command: int) -> Figures:
        return self.run(**command) if do == "run" else self.fetch(**command)


def relay(peer: Peer, topic: str, payload: bytes) -> None:
    """Pass on, both ways."""
    peer.publish(IN if topic == UP else DOWN, payload)


def answer(peer: Peer, _topic: str, payload: bytes) -> None:
    """Answer with what was asked, or with the cells that were asked for."""
    if len(payload) > QUESTION:
        peer.publish(OUT, payload)
        return
    cell = bytes(int.from_bytes(payload[4:], "big"))
    for _ in range(int.from_bytes(payload[:4], "big")):
        peer.publish(OUT, cell)


def main(role: str, port: int) -> None:
    """Be one of the three processes."""
    if role == "client":
        serve(Client(port).handle)
        return
    peer = Peer(port, *(([UP, OUT], relay) if role == "relay" else ([IN], answer)))
    tell("ready")
    while True:
        peer.turn(1.0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
