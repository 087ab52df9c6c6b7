"""Sealed requests: what the relay changes no longer opens, and what it repeats tells it nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from samples import EXAMPLES, HASH

from common import codec, config, messages, sealing
from common.errors import ForgedError, MalformedError
from common.sealing import AnswerKey, Binding, XWingPrivateKey, XWingPublicKey

PREKEY, OTHER = XWingPrivateKey.generate(), XWingPrivateKey.generate()
PREKEYS: Mapping[bytes, XWingPrivateKey] = {key.public.key_id: key for key in (PREKEY, OTHER)}
BINDING = Binding(b"m" * 16, b"r" * 32, "browse")
BODY = messages.GetProduct(sku="GPX-1")
SECRET = b"a" * 32
STEP = config.REQUEST_STEP


def sealed(binding: Binding = BINDING, body: Any = BODY) -> tuple[bytes, AnswerKey]:
    return sealing.seal_request(PREKEY.public, binding, body, SECRET, STEP)


def cannot_open(call: Callable[[], Any]) -> bool:
    try:
        call()
    except ForgedError as error:
        return str(error) == "cannot open"
    return False


# --- the request ---------------------------------------------------------------------------------------


def test_a_request_opens_and_both_ends_have_the_answers_key() -> None:
    request, asked = sealed()
    body, answering = sealing.open_request(PREKEYS, BINDING, request)
    assert body == BODY
    assert (answering.secret, answering.request_hash) == (asked.secret, asked.request_hash)
    assert request[:8] == PREKEY.public.key_id


@pytest.mark.parametrize(
    "name", ["ListProducts", "GetProduct", "GetImage", "GetQuote", "OrderRequest", "GetCells"]
)
def test_requests_come_in_steps_of_one_kib(name: str) -> None:
    request, _ = sealed(body=EXAMPLES[name])
    assert len(request) == 8 + 1120 + STEP + 16
    assert sealing.open_request(PREKEYS, BINDING, request)[0] == EXAMPLES[name]


def test_every_bit_counts_and_every_truncation_is_refused() -> None:
    request, _ = sealed()
    for place in range(len(request)):
        for bit in range(8) if place < 40 else (place % 8,):
            altered = bytearray(request)
            altered[place] ^= 1 << bit
            assert cannot_open(lambda: sealing.open_request(PREKEYS, BINDING, bytes(altered)))  # noqa: B023
    for length in range(len(request)):
        assert cannot_open(lambda: sealing.open_request(PREKEYS, BINDING, request[:length]))  # noqa: B023
    assert cannot_open(lambda: sealing.open_request(PREKEYS, BINDING, request + b"\0"))


@pytest.mark.parametrize(
    "binding",
    [
        Binding(b"x" * 16, b"r" * 32, "browse"),
        Binding(b"m" * 16, b"x" * 32, "browse"),
        Binding(b"m" * 16, b"r" * 32, "order"),
        Binding(b"m" * 16, b"r" * 32, "cells"),
        Binding(b"m" * 16, b"r" * 32, "browse", b"\0"),
        Binding(b"m" * 15, b"m" + b"r" * 32, "browse"),
    ],
)
def test_another_market_recipient_purpose_or_outer_part_is_refused(binding: Binding) -> None:
    assert cannot_open(lambda: sealing.open_request(PREKEYS, binding, sealed()[0]))


def test_another_or_an_erased_prekey_is_refused() -> None:
    request, _ = sealed()
    assert cannot_open(lambda: sealing.open_request({}, BINDING, request))
    swapped = OTHER.public.key_id + request[8:]
    assert cannot_open(lambda: sealing.open_request(PREKEYS, BINDING, swapped))
    lying = {PREKEY.public.key_id: OTHER}
    assert cannot_open(lambda: sealing.open_request(lying, BINDING, request))


def test_a_request_under_the_right_key_that_is_no_request_is_refused_alike() -> None:
    key_id = PREKEY.public.key_id
    for plaintext in (b"", b"\xff" * 1024, bytes(1024), codec.pack(BODY)):
        request = key_id + sealing.seal(PREKEY.public, BINDING.info(key_id), plaintext)
        assert cannot_open(lambda: sealing.open_request(PREKEYS, BINDING, request))  # noqa: B023


def test_two_requests_for_the_same_share_nothing_but_the_prekeys_id() -> None:
    one, two = sealed()[0], sealed()[0]
    assert one[8:40] != two[8:40]
    assert one[-40:] != two[-40:]


def order(**changes: Any) -> Any:
    return msgspec.structs.replace(EXAMPLES["PlaceOrder"], **changes)


ORDER_FIELDS = {
    "order_id": bytes(16),
    "amount": 901,
    "currency": "USD",
    "deadline": EXAMPLES["PlaceOrder"].deadline + 1,  # type: ignore[union-attr]
    "claim_lock": HASH[::-1],
    "status_lock": HASH[::-1],
}


def test_both_ends_pack_an_orders_outer_fields_alike() -> None:
    assert sealing.order_outer(order()) == sealing.order_outer(EXAMPLES["ForwardOrder"])  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ORDER_FIELDS)
def test_an_outer_field_that_the_broker_changes_makes_the_order_unopenable(field: str) -> None:
    def bound(placed: Any) -> Binding:
        return Binding(b"m" * 16, b"r" * 32, "order", sealing.order_outer(placed))

    request, _ = sealed(bound(order()), EXAMPLES["OrderRequest"])
    assert sealing.open_request(PREKEYS, bound(order()), request)[0] == EXAMPLES["OrderRequest"]
    changed = bound(order(**{field: ORDER_FIELDS[field]}))
    assert cannot_open(lambda: sealing.open_request(PREKEYS, changed, request))


def test_every_outer_field_is_bound_but_those_that_have_a_place_of_their_own() -> None:
    outer = set(messages.ForwardOrder.__struct_fields__)
    assert outer - ORDER_FIELDS.keys() == {"sealed"}
    # The merchant is the recipient, and coins are the broker's business.
    assert set(messages.PlaceOrder.__struct_fields__) - outer == {"merchant", "coins"}


# --- the answer ----------------------------------------------------------------------------------------

KEY = AnswerKey(SECRET, hashlib.sha256(b"a request").digest())
N, M = b"n" * 32, b"o" * 32
ANSWER = EXAMPLES["ProductDetail"]


def test_an_answer_opens_under_its_own_key() -> None:
    answer = KEY.seal(ANSWER, N, size=8192)  # type: ignore[arg-type]
    assert len(answer) == 32 + 8192 + 16
    assert KEY.unseal(answer) == ANSWER
    assert len(KEY.seal(ANSWER, N, step=4096)) == 32 + 4096 + 16  # type: ignore[arg-type]


def test_every_bit_of_an_answer_counts_and_every_truncation_is_refused() -> None:
    answer = KEY.seal(ANSWER, N, step=512)  # type: ignore[arg-type]
    for place in range(len(answer)):
        altered = bytearray(answer)
        altered[place] ^= 1 << (place % 8)
        assert cannot_open(lambda: KEY.unseal(bytes(altered)))  # noqa: B023
    for length in range(len(answer)):
        assert cannot_open(lambda: KEY.unseal(answer[:length]))  # noqa: B023


@pytest.mark.parametrize(
    "key",
    [AnswerKey(b"b" * 32, KEY.request_hash), AnswerKey(SECRET, bytes(32))],
    ids=["secret", "request"],
)
def test_an_answer_to_something_else_is_refused(key: AnswerKey) -> None:
    assert cannot_open(lambda: key.unseal(KEY.seal(ANSWER, N, step=512)))  # type: ignore[arg-type]


def test_a_request_that_is_answered_twice_has_unrelated_answers() -> None:
    """Under one key and nonce, two different answers would give the relay the authentication key."""
    one = KEY.seal(ANSWER, N, step=512)  # type: ignore[arg-type]
    two = KEY.seal(ANSWER, M, step=512)  # type: ignore[arg-type]
    assert one[32:] != two[32:]
    pieces = {one[n : n + 8] for n in range(32, len(one) - 8)} & {
        two[n : n + 8] for n in range(32, len(two) - 8)
    }
    assert pieces == set()
    assert cannot_open(lambda: KEY.unseal(N + two[32:]))
    assert KEY.unseal(one) == KEY.unseal(two)


# --- cells ---------------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 16


def test_cells_open_with_their_index() -> None:
    stream = KEY.stream(N)
    cells = [stream.seal(index, CONTENT) for index in (0, 1, 2, 2**32 - 1)]
    assert [KEY.unseal_cell(cell) for cell in cells] == [(n, CONTENT) for n in (0, 1, 2, 2**32 - 1)]
    assert len({cell[36:] for cell in cells}) == len(cells), "no nonce is used twice"


def test_a_cell_with_another_index_or_n_is_refused() -> None:
    one, two = (KEY.stream(N).seal(index, CONTENT) for index in (0, 1))
    assert cannot_open(lambda: KEY.unseal_cell(one[:32] + two[32:36] + one[36:]))
    assert cannot_open(lambda: KEY.unseal_cell(M + one[32:]))
    assert cannot_open(lambda: AnswerKey(b"b" * 32, KEY.request_hash).unseal_cell(one))
    other = KEY.stream(M).seal(0, CONTENT)
    assert cannot_open(lambda: KEY.unseal_cell(N + other[32:]))
    assert cannot_open(lambda: KEY.stream(N).unseal(other))


def test_every_byte_of_a_cell_counts_and_every_truncation_is_refused() -> None:
    cell = KEY.stream(N).seal(5, CONTENT)
    for place in range(len(cell)):
        altered = bytearray(cell)
        altered[place] ^= 1 << (place % 8)
        assert cannot_open(lambda: KEY.unseal_cell(bytes(altered)))  # noqa: B023
    for length in range(0, len(cell), 7):
        assert cannot_open(lambda: KEY.unseal_cell(cell[:length]))  # noqa: B023


def test_an_answer_is_no_cell_and_a_cell_no_answer() -> None:
    answer = KEY.seal(ANSWER, N, step=512)  # type: ignore[arg-type]
    assert cannot_open(lambda: KEY.unseal_cell(N + bytes(4) + answer[32:]))
    cell = KEY.stream(N).seal(0, answer[:100])
    assert cannot_open(lambda: KEY.unseal(N + cell[36:]))


# --- X-Wing keys ---------------------------------------------------------------------------------------

GOOD = PREKEY.public.raw
ML_KEM, X25519 = GOOD[: sealing.ML_KEM_PUBLIC], GOOD[sealing.ML_KEM_PUBLIC :]
FIELD = 2**255 - 19
# RFC 7748 and Bernstein's list: every encoding of a point of small order, on the curve and its twist.
SMALL_ORDER = [
    (point | mask).to_bytes(32, "little")
    for point in (
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        FIELD - 1,
        FIELD,
        FIELD + 1,
    )
    for mask in (0, 1 << 255)
]


@pytest.mark.parametrize(
    "raw",
    [b"", GOOD[:-1], GOOD + b"\0", bytes(1216), bytes(1184) + X25519, b"\xff" * 1184 + X25519],
    ids=["empty", "short", "long", "zero", "zero ML-KEM", "ML-KEM out of range"],
)
def test_a_degenerate_key_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        XWingPublicKey.from_bytes(raw)


@pytest.mark.parametrize(
    "point", SMALL_ORDER, ids=[point.hex()[:6] + point.hex()[-2:] for point in SMALL_ORDER]
)
def test_an_x25519_half_of_small_order_is_malformed(point: bytes) -> None:
    with pytest.raises(ValueError, match="shared key"):
        X25519PrivateKey.generate().exchange(sealing.X25519PublicKey.from_public_bytes(point))
    with pytest.raises(MalformedError, match="degenerate"):
        XWingPublicKey.from_bytes(ML_KEM + point)


def test_a_request_to_an_encapsulation_of_small_order_cannot_be_opened() -> None:
    request, _ = sealed()
    for point in SMALL_ORDER:
        altered = request[: 8 + 1088] + point + request[8 + 1120 :]
        assert cannot_open(lambda: sealing.open_request(PREKEYS, BINDING, altered))  # noqa: B023


def test_keys_round_trip_and_are_known_by_their_hash() -> None:
    again = XWingPrivateKey.from_bytes(PREKEY.raw)
    assert again.public == PREKEY.public
    assert XWingPublicKey.from_bytes(GOOD).key_id == hashlib.sha256(GOOD).digest()[:8]
    assert sealing.load_public(GOOD) is sealing.load_public(bytes(GOOD))
    with pytest.raises(ValueError, match=r"."):
        XWingPrivateKey.from_bytes(PREKEY.raw[:-1])


def test_secrets_are_not_in_the_repr() -> None:
    for holder in (PREKEY, KEY, KEY.stream(N)):
        for secret in (PREKEY.raw, SECRET):
            assert repr(secret)[2:-1] not in repr(holder)
            assert secret.hex() not in repr(holder)
