"""The processes that sign for the mint: idle, and nobody depends on them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from real_market import RealMarket
from structlog.testing import capture_logs

from broker_node import signers as signers_module
from broker_node.mint import Mint
from broker_node.signers import AVAILABLE, Signers
from common.blind import SIGNATURE_BYTES, BlindPrivateKey
from common.errors import MalformedError
from common.messages import BlindedToken, IssuerKey
from common.slots import month_of

WAIT_S = 20.0
GONE = "a signer has ended: the mint's threads sign"

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="there are no idle processes here")


@pytest.fixture
def key(tmp_path: Path) -> BlindPrivateKey:
    key = BlindPrivateKey.generate()
    (tmp_path / f"{key.public.key_id.hex()}.pem").write_bytes(key.to_pem())
    return key


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for what is idle, as long as the tests beside this one take."""
    monkeypatch.setattr(signers_module, "PATIENCE_S", WAIT_S)


@pytest.fixture
def signers(tmp_path: Path, key: BlindPrivateKey) -> Iterator[Signers]:
    signers = started(tmp_path, key)
    yield signers
    signers.close()
    assert [signer._process.returncode for signer in signers._started] == [-signal.SIGKILL]


def started(folder: Path, key: BlindPrivateKey) -> Signers:
    signers = Signers(folder, 1)
    assert signers.sign(blinded(key, 1)) is None, "the first who asks starts it, and does not wait for it"
    assert is_heard(signers)
    return signers


def is_heard(signers: Signers) -> bool:
    """Wait until its process has said something."""
    heard, _, _ = select.select([signers._started[0]._socket], [], [], WAIT_S)
    return bool(heard)


def blinded(key: BlindPrivateKey, *numbers: int) -> list[BlindedToken]:
    size = SIGNATURE_BYTES
    return [BlindedToken(key_id=key.public.key_id, blinded=(3**n).to_bytes(size)) for n in numbers]


def expected(key: BlindPrivateKey, wanted: list[BlindedToken]) -> list[bytes]:
    return [key.blind_sign(each.blinded) for each in wanted]


def process_of(signers: Signers) -> int:
    return signers._started[0]._process.pid


def test_it_signs_as_the_mint_does(signers: Signers, key: BlindPrivateKey) -> None:
    for numbers in ((5,), (6, 7, 8)):
        wanted = blinded(key, *numbers)
        assert signers.sign(wanted) == expected(key, wanted)


def test_it_has_what_the_processor_has_left(signers: Signers, key: BlindPrivateKey) -> None:
    assert signers.sign(blinded(key, 5)) is not None
    assert os.sched_getscheduler(process_of(signers)) == os.SCHED_IDLE


def test_what_is_no_blinded_message_is_refused_and_the_next_is_signed(
    signers: Signers, key: BlindPrivateKey
) -> None:
    beyond = [BlindedToken(key_id=key.public.key_id, blinded=b"\xff" * SIGNATURE_BYTES)]
    with pytest.raises(MalformedError):
        signers.sign([*blinded(key, 5), *beyond])
    assert signers.sign(blinded(key, 6)) == expected(key, blinded(key, 6))


def test_a_starved_one_is_waited_for_once_and_its_late_answer_is_thrown_away(
    signers: Signers, key: BlindPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.kill(process_of(signers), signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(signers_module, "PATIENCE_S", 0.01)
        assert signers.sign(blinded(key, 6)) is None
    # Whoever waited here again would wait for ever.
    assert signers.sign(blinded(key, 7)) is None
    os.kill(process_of(signers), signal.SIGCONT)
    assert is_heard(signers)
    assert signers.sign(blinded(key, 8)) == expected(key, blinded(key, 8))


def test_where_one_has_ended_the_mint_signs(tmp_path: Path, key: BlindPrivateKey) -> None:
    public = key.public
    issuer = IssuerKey(key_id=public.key_id, purpose="coin", value=8, month=month_of(0), public=public.der)
    signers = started(tmp_path, key)
    mint = Mint(tmp_path, [issuer], signers=signers)
    assert mint.sign(blinded(key, 4)) == expected(key, blinded(key, 4))
    os.kill(process_of(signers), signal.SIGKILL)
    with capture_logs() as logs:
        for number in (6, 7):
            assert mint.sign(blinded(key, number)) == expected(key, blinded(key, number))
    assert [(line["event"], line["status"]) for line in logs] == [(GONE, -signal.SIGKILL)]
    signers.close()


def test_one_that_cannot_start_is_not_started_for_ever(
    tmp_path: Path, key: BlindPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    signers = Signers(tmp_path, 1)
    with capture_logs() as logs:
        assert signers.sign(blinded(key, 1)) is None
        signers._started[0]._process.wait()
        assert [signers.sign(blinded(key, 1)) for _ in range(3)] == [None] * 3
    assert [line["event"] for line in logs] == [GONE]
    assert len(signers._started) == 1
    signers.close()


def test_where_no_process_can_be_started_the_mint_signs(
    tmp_path: Path, key: BlindPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    signers = Signers(tmp_path, 1)
    with capture_logs() as logs:
        assert [signers.sign(blinded(key, 1)) for _ in range(3)] == [None] * 3
    assert [line["event"] for line in logs] == ["no signer can be started: the mint's threads sign"]
    signers.close()


def test_many_threads_ask_at_once_and_each_gets_its_own(tmp_path: Path, key: BlindPrivateKey) -> None:
    signers = Signers(tmp_path, 2)

    def ask(number: int) -> bool:
        wanted = blinded(key, number)
        return signers.sign(wanted) in (None, expected(key, wanted))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(1, 101)))
    assert len(signers._started) == 2
    signers.close()


def test_a_large_request_is_one_packet(signers: Signers, key: BlindPrivateKey) -> None:
    wanted = blinded(key, *range(1, 129))
    assert signers.sign(wanted) == expected(key, wanted)


def test_it_ends_with_the_broker_however_that_went(tmp_path: Path, key: BlindPrivateKey) -> None:
    program = f"""
import signal
from pathlib import Path
from broker_node.signers import Signers
signers = Signers(Path({str(tmp_path)!r}), 1)
signers.sign([])
print(signers._started[0]._process.pid, flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as broker:
        assert broker.stdout is not None
        descriptor = os.pidfd_open(int(broker.stdout.readline()))
        broker.kill()
    ended, _, _ = select.select([descriptor], [], [], WAIT_S)
    os.close(descriptor)
    assert ended


def test_a_running_broker_has_one_from_its_first_signature_on(
    real_market: RealMarket, tmp_path: Path
) -> None:
    real_market.customer(tmp_path / "somebody")
    broker = real_market.nodes["broker"].process
    assert broker is not None
    assert any(b"broker_node.signer" in command for command in commands_of_children(broker.pid))


def commands_of_children(parent: int) -> Iterator[bytes]:
    """Give the command lines of a process's children (proc(5))."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                yield (path / "cmdline").read_bytes()
