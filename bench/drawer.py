"""Withdrawals at a steady rate: one process, several account sessions, whole bundles.

python -m bench.drawer SETUP     SETUP: a JSON file, see `Setup`

    {"do": "prepare", "count": 250}                 blind the bundles
    {"do": "run", "rate": 50.0}                     send them at that rate, and wait for every answer
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from bench.figures import Figures, figures
from bench.processes import serve
from bench.session import OpenSession
from common import bus, coins, messages
from common.messages import IssuerKey

STALLED_S = 30.0
BUSY_PAUSE_S = 0.5


class Setup(msgspec.Struct, frozen=True):
    """What the load needs to know: market file, and the accounts, which share a password."""

    market: str
    names: list[str]
    password: str


class Drawer:
    """Draws the wallet's bundle again and again."""

    def __init__(self, setup: Setup) -> None:
        self._sessions = [
            OpenSession(
                Path(setup.market),
                messages.LogIn(name=name, password=setup.password, device=bytes(32), code=""),
            )
            for name in setup.names
        ]
        issuers = self._sessions[0].broker.issuer_keys
        self._by_value: dict[int, IssuerKey] = {issuer.value: issuer for issuer in issuers}
        self._seed = os.urandom(coins.SEED_BYTES)
        self._counter = 0
        self._requests: list[messages.Withdraw] = []

    def handle(self, do: str, **command: Any) -> Any:
        """Do what is asked."""
        return self._prepare(**command) if do == "prepare" else self._run(**command)

    def _prepare(self, count: int) -> int:
        self._requests = [
            messages.Withdraw(
                operation=os.urandom(16),
                coins=[self._blinded(value) for value in coins.BUNDLE],
                # A ticket key's value is zero.
                tickets=[self._blinded(0) for _ in range(coins.BUNDLE_TICKETS)],
            )
            for _ in range(count)
        ]
        return count

    def _blinded(self, value: int) -> messages.BlindedToken:
        self._counter += 1
        return coins.blind_token(self._by_value[value], self._seed, self._counter)

    def _run(self, rate: float) -> Figures:
        begun: dict[bytes, float] = {}
        latencies: list[float] = []
        again: list[tuple[float, OpenSession, messages.Withdraw]] = []
        by_operation = {request.operation: request for request in self._requests}
        sent, count = 0, len(self._requests)
        start = heard = time.perf_counter()
        while len(latencies) < count:
            now = time.perf_counter()
            if sent < count and now >= start + sent / rate:
                request = self._requests[sent]
                begun[request.operation] = now
                self._sessions[sent % len(self._sessions)].post([request])
                sent += 1
                continue
            while again and now >= again[0][0]:
                _, session, request = again.pop(0)
                session.post([request])
            pause = start + sent / rate - now if sent < count else BUSY_PAUSE_S
            bus.wait([session.connection for session in self._sessions], pause)
            for session in self._sessions:
                for answer in session.received():
                    if isinstance(answer, messages.Refused) and answer.code == "busy":
                        # As a customer does; its latency goes on counting.
                        request = by_operation[answer.reference]
                        again.append((time.perf_counter() + BUSY_PAUSE_S, session, request))
                        continue
                    if not isinstance(answer, messages.Withdrawn):
                        raise TypeError(f"a withdrawal was not made: {answer}")
                    heard = time.perf_counter()
                    latencies.append(heard - begun.pop(answer.operation))
            if time.perf_counter() - heard > STALLED_S:
                raise RuntimeError(f"{len(begun)} withdrawals get no answer")
        return figures(count, time.perf_counter() - start, latencies)


if __name__ == "__main__":
    serve(Drawer(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Setup)).handle)
