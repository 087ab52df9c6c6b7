"""A process that signs for the mint, with what the processor has left over (`signers` says why).

python -m broker_node.signer FOLDER       standard input is a socket, FOLDER has the mint's key files

    <- ready
    -> key id, blinded message; as often as there are signatures to make
    <- the signatures, in that order; or `malformed`, where one of the messages is none

Each message is framed by `multiprocessing.connection`. It imports little: it shall be there soon.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from common.blind import KEY_ID_BYTES, SIGNATURE_BYTES, BlindPrivateKey
from common.errors import MalformedError

ITEM_BYTES: Final = KEY_ID_BYTES + SIGNATURE_BYTES
READY: Final = b"ready"
MALFORMED: Final = b"malformed"
NICENESS: Final = 10
"""Where it may not be idle."""


def serve(folder: Path, pipe: Connection) -> None:
    """Answer requests until the other end closes."""
    keys: dict[bytes, BlindPrivateKey] = {}
    pipe.send_bytes(READY)
    while True:
        pipe.send_bytes(_answer(folder, keys, pipe.recv_bytes()))


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
    os.nice(NICENESS)
    with suppress(OSError):
        # A sandbox may forbid it; `nice` is something, too.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with suppress(EOFError, ConnectionError):
        serve(folder, Connection(sys.stdin.fileno()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
