"""A process that signs for the mint, with what the processor has left over (`signers` says why).

python -m broker_node.signer FOLDER       standard input is a socket, FOLDER has the mint's key files

    <- ready
    -> key id, blinded message; as often as there are signatures to make
    <- the signatures, in that order; or `malformed`, where one of the messages is none

A packet each (`SOCK_SEQPACKET`). It imports little: it shall be there soon.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from common.blind import KEY_ID_BYTES, SIGNATURE_BYTES, BlindPrivateKey
from common.errors import MalformedError

ITEM_BYTES: Final = KEY_ID_BYTES + SIGNATURE_BYTES
LONGEST: Final = 128 * 1024
"""No packet is longer: what one request may hold takes a quarter of it."""
READY: Final = b"ready"
MALFORMED: Final = b"malformed"
NICENESS: Final = 10
"""Where it may not be idle."""


def serve(folder: Path, mint: socket.socket) -> None:
    """Answer requests until the other end closes."""
    keys: dict[bytes, BlindPrivateKey] = {}
    mint.send(READY)
    while request := mint.recv(LONGEST):
        mint.send(_answer(folder, keys, request))


def _answer(folder: Path, keys: dict[bytes, BlindPrivateKey], request: bytes) -> bytes:
    signatures: list[bytes] = []
    for key_id, blinded in _items(request):
        if key_id not in keys:
            keys[key_id] = BlindPrivateKey.from_pem((folder / f"{key_id.hex()}.pem").read_bytes())
        try:
            signatures.append(keys[key_id].blind_sign(blinded))
        except MalformedError:
            return MALFORMED
    return b"".join(signatures)


def _items(request: bytes) -> Iterator[tuple[bytes, bytes]]:
    for start in range(0, len(request), ITEM_BYTES):
        yield request[start : start + KEY_ID_BYTES], request[start + KEY_ID_BYTES : start + ITEM_BYTES]


def main(folder: Path) -> None:
    """Be a signer, on the socket that is this process's standard input."""
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    with suppress(OSError):
        # A sandbox may forbid it; `nice` is something, too.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with socket.socket(fileno=sys.stdin.fileno()) as mint, suppress(ConnectionError):
        serve(folder, mint)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
