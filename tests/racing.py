"""Two brokers, each a process of its own, on one store: they act at the same instant, again and again.

    answers = race(world.broker_home, [(Move(session, one), Move(session, other)), ...])

Each process takes its side of every duel through the real core and the real store, in steps that begin
together: first both decide, then, where a decision had to be signed, both finish. What a broker would have
sent is what comes back; nothing is published.
"""

from __future__ import annotations

import multiprocessing
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from broker_node.run import BrokerNode
from broker_node.sends import Session
from common import clock, messages
from common.core import Arrival, Job

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Move:
    """What somebody asks of one of the two brokers."""

    sender: Session
    body: messages.Message


Duel: TypeAlias = tuple[Move, Move]


class Replica:
    """A broker's core on the shared store, without a bus."""

    def __init__(self, home: Path) -> None:
        self._node = BrokerNode.open(home)

    def decide(self, *arrivals: Arrival) -> list[Any]:
        """Take one transaction, as `common.node.Loop` does; gives what is to be sent or done."""
        core, now = self._node.broker, clock.now_ms()
        core.begin()
        with self._node.store.immediate() as tx:
            sends = core.receive_all(tx, arrivals, now, clock.random_bytes)
        core.seen(arrivals, now)
        return sends

    def close(self) -> None:
        self._node.close()


def _replica(home: Path, moves: Sequence[Move], barrier: Any, result: Connection) -> None:
    replica = Replica(home)
    answers: list[list[messages.Message]] = []
    for move in moves:
        barrier.wait(PATIENCE_S)
        sends = replica.decide(Arrival(move.sender, secrets.token_bytes(16), move.body))
        signed = [arrival for job in sends if isinstance(job, Job) for arrival in job.done(job.work())]
        barrier.wait(PATIENCE_S)
        for arrival in signed:
            sends = replica.decide(arrival)
        answers.append([send.body for send in sends if hasattr(send, "body")])
    replica.close()
    result.send(answers)


def race(home: Path, duels: Sequence[Duel]) -> list[tuple[list[Any], list[Any]]]:
    """Let two brokers fight every duel; gives both sides' answers to each."""
    spawning = multiprocessing.get_context("spawn")
    barrier = spawning.Barrier(2)
    replicas, results = [], []
    for side in (0, 1):
        receiver, sender = spawning.Pipe(duplex=False)
        arguments = (home, [duel[side] for duel in duels], barrier, sender)
        replicas.append(spawning.Process(target=_replica, args=arguments))
        replicas[-1].start()
        sender.close()
        results.append(receiver)
    try:
        answers = [receiver.recv() if receiver.poll(PATIENCE_S) else [] for receiver in results]
    finally:
        for replica in replicas:
            replica.join(PATIENCE_S)
            if replica.is_alive():
                replica.kill()
                replica.join()
    assert [replica.exitcode for replica in replicas] == [0, 0]
    return list(zip(*answers, strict=True))
