"""The load on the mint: one process, many shop sessions, a window of swaps under way, every answer verified.

python -m bench.swapper SETUP     SETUP: a JSON file, see `Setup`

    {"do": "prepare", "coins": FILE}     blind two coins for each coin of a file, and pack the requests
    {"do": "run", "window": 64}          swap them all; the time is taken
    {"do": "verify"}                     unblind and verify every coin that came back
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from bench.figures import Figures, figures
from bench.market import TOKENS
from bench.processes import serve
from bench.session import OpenSession
from common import bus, codec, coins, messages
from common.messages import IssuerKey

STALLED_S = 20.0
SWAPS_OF_A_SESSION = 4
"""What the broker lets one session have under way."""


class Setup(msgspec.Struct, frozen=True):
    """What the load needs to know: files of the market, of tickets, and of the broker's public keys."""

    market: str
    tickets: str
    issuers: str


class Swapper:
    """Swaps one coin for two of half its value, over and over."""

    def __init__(self, setup: Setup) -> None:
        issuers = codec.Codec[list[IssuerKey]](list[IssuerKey]).unpack(Path(setup.issuers).read_bytes())
        self._issuers = {issuer.key_id: issuer for issuer in issuers}
        self._by_value = {issuer.value: issuer for issuer in issuers if issuer.purpose == "coin"}
        self._seed = os.urandom(coins.SEED_BYTES)
        self._counter = 0
        self._sessions = [
            OpenSession(Path(setup.market), messages.TicketCredential(ticket=ticket))
            for ticket in TOKENS.unpack(Path(setup.tickets).read_bytes())
        ]
        self._swaps: list[messages.Swap] = []
        self._drawn: dict[bytes, list[tuple[IssuerKey, int]]] = {}
        self._answers: dict[bytes, messages.Swapped] = {}

    def handle(self, do: str, **command: Any) -> Any:
        """Do what is asked."""
        if do == "prepare":
            return self._prepare(Path(command["coins"]))
        return self._run(**command) if do == "run" else self._verify()

    def _prepare(self, path: Path) -> int:
        self._swaps = [self._swap(token) for token in TOKENS.unpack(path.read_bytes())]
        return len(self._swaps)

    def _swap(self, token: messages.Token) -> messages.Swap:
        operation = os.urandom(16)
        half = self._by_value[self._issuers[token.key_id].value // 2]
        drawn = self._drawn[operation] = [(half, self._counter), (half, self._counter + 1)]
        self._counter += 2
        blinded = [coins.blind_token(issuer, self._seed, counter) for issuer, counter in drawn]
        return messages.Swap(operation=operation, coins=[token], blinded=blinded)

    def _run(self, window: int) -> Figures:
        waiting, count = list(reversed(self._swaps)), len(self._swaps)
        begun: dict[bytes, float] = {}
        latencies: list[float] = []
        free = {id(session): min(SWAPS_OF_A_SESSION, window) for session in self._sessions}
        room = window
        start = heard = time.perf_counter()
        while len(latencies) < count:
            for session in self._sessions:
                number = min(free[id(session)], room, len(waiting))
                if number:
                    batch: list[messages.Message] = [waiting.pop() for _ in range(number)]
                    now = time.perf_counter()
                    begun |= {swap.operation: now for swap in batch if isinstance(swap, messages.Swap)}
                    session.post(batch)
                    free[id(session)] -= number
                    room -= number
            bus.wait([session.connection for session in self._sessions], 1.0)
            now = time.perf_counter()
            for session in self._sessions:
                for answer in session.received():
                    if not isinstance(answer, messages.Swapped):
                        raise TypeError(f"a swap was not made: {answer}")
                    latencies.append(now - begun.pop(answer.operation))
                    self._answers[answer.operation] = answer
                    free[id(session)] += 1
                    room += 1
                    heard = now
            if now - heard > STALLED_S:
                raise RuntimeError(f"{len(begun)} swaps get no answer")
        return figures(count, time.perf_counter() - start, latencies)

    def _verify(self) -> int:
        verified = 0
        for operation, answer in self._answers.items():
            drawn = self._drawn[operation]
            for (issuer, counter), signature in zip(drawn, answer.signatures, strict=True):
                coins.unblind(issuer, self._seed, counter, signature)
                verified += 1
        self._answers.clear()
        return verified


if __name__ == "__main__":
    serve(Swapper(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Setup)).handle)
