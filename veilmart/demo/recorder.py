"""The recorder: what Mosquitto's operator sees, kept for the report at the end.

The operator of a bus sees every topic and payload. The demo plays that operator by one line in its own
ACL file, for a certificate that only it has; no other market has such a line.

Of every payload topic, size and time are kept, and the bytes of all but the cells of long downloads: of
their frames every 128th's, since hundreds of megabytes of ciphertext would fill the memory and prove nothing
more.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import bus, config, topics
from common.market_file import MarketFile
from veilmart import ca
from veilmart.evidence import Seen

RECORDER = "recorder"
EVERY = 128


class Recorder:
    """Listens to everything in a thread of its own."""

    def __init__(self, connection: bus.Connection) -> None:
        self._connection = connection
        self._stop = threading.Event()
        self._cells = 0
        self.seen: list[Seen] = []
        self.counts: Counter[str] = Counter()
        """Messages by kind of topic."""
        self.bytes = 0

    @staticmethod
    def admit(bus_home: Path) -> None:
        """Let the recorder read everything on this bus."""
        path = bus_home / "acl-nodes"
        path.write_text(path.read_text() + f"\nuser {RECORDER}\ntopic read {topics.PREFIX}/#\n")

    @classmethod
    @contextmanager
    def listening(cls, market: MarketFile, home: Path) -> Iterator[Recorder]:
        """Record until the end of the block."""
        files = bus.TlsFiles(
            home / ca.CA_CERTIFICATE_FILE, home / ca.IDENTITY_CERTIFICATE_FILE, home / ca.IDENTITY_KEY_FILE
        )
        (home / ca.CA_CERTIFICATE_FILE).write_text(market.ca_certificate)
        address = bus.Address(market.nodes.host, market.nodes.port, files.context())
        connection = bus.Connection(bus.Settings(address, RECORDER, (f"{topics.PREFIX}/#",)))
        connection.open()
        recorder = cls(connection)
        thread = threading.Thread(target=recorder._listen, name="recorder")
        thread.start()
        try:
            yield recorder
        finally:
            recorder._stop.set()
            thread.join()
            connection.close()

    def _listen(self) -> None:
        while not self._stop.is_set():
            self._connection.wait(0.1)
            batch = self._connection.take(256)
            for delivery in batch:
                self._keep(delivery)
            self._connection.acknowledge(batch)
            self._connection.flush()

    def _keep(self, delivery: bus.Delivery) -> None:
        self.bytes += len(delivery.payload)
        self.counts["/".join(delivery.topic.split("/")[2::2])] += 1
        if len(delivery.payload) > 64 * config.KIB:
            self._cells += 1
            if self._cells % EVERY:
                return
        self.seen.append(Seen(delivery.topic, delivery.payload))
