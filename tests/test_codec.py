"""The codec: every message, its bytes as another implementation reads them, and everything that is none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import EXAMPLES, HASH, ID, KEY, PLAIN, RSA, SEALED, TOKEN, UNIONS, envelope, every_class

from common import codec, config, messages
from common.codec import Codec
from common.errors import MalformedError
from common.messages import Message

Case = tuple[str, Codec[Any], Any]


def cases() -> Iterator[Case]:
    """Give every place in which every example may stand."""
    for place, (decoder, types) in UNIONS.items():
        for kind in sorted(types, key=lambda each: each.__name__):
            yield f"{place}: {kind.__name__}", decoder, [envelope(EXAMPLES[kind.__name__])]
    for place, (decoder, types) in PLAIN.items():
        for kind in sorted(types, key=lambda each: each.__name__):
            yield f"{place}: {kind.__name__}", decoder, EXAMPLES[kind.__name__]


CASES = list(cases())
every_place = pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
every_example = pytest.mark.parametrize("name", sorted(EXAMPLES))


def typed(name: str) -> Codec[Any]:
    example = EXAMPLES[name]
    kind = messages.Envelope[messages.FromAccount] if name == "Envelope" else type(example)
    return Codec(kind)


def refused(decoder: Codec[Any], data: bytes) -> bool:
    try:
        decoder.unpack(data)
    except MalformedError:
        return True
    return False


def test_there_is_an_example_of_every_message() -> None:
    assert EXAMPLES.keys() == every_class()


def test_every_example_stands_somewhere() -> None:
    placed = {kind.__name__ for _, types in (*UNIONS.values(), *PLAIN.values()) for kind in types}
    within = {"Envelope", "SignUp", "LogIn", "TicketCredential", "MerchantCredential"}
    sealed = {"ListProducts", "GetProduct", "GetImage", "GetQuote", "OrderRequest", "GetCells"}
    tagged = {name for name, example in EXAMPLES.items() if isinstance(example, Message)}
    assert tagged - placed - within - sealed == set()


@every_place
def test_round_trip(case: Case) -> None:
    _, decoder, value = case
    data = codec.pack(value)
    again = decoder.unpack(data)
    assert again == value
    assert codec.pack(again) == data


@every_example
def test_another_implementation_reads_the_bytes(name: str) -> None:
    example = EXAMPLES[name]
    read = msgpack.unpackb(codec.pack(example), strict_map_key=True)
    assert read == plain(example)
    assert msgpack.packb(read) == codec.pack(example)


def plain(value: Any) -> Any:
    """Give what is on the wire: an array, behind the name where the message has one."""
    if isinstance(value, msgspec.Struct):
        fields = [plain(getattr(value, field)) for field in value.__struct_fields__]
        return [type(value).__name__, *fields] if isinstance(value, Message) else fields
    return [plain(item) for item in value] if isinstance(value, list) else value


@every_place
def test_every_truncation_is_refused(case: Case) -> None:
    _, decoder, value = case
    data = codec.pack(value)
    assert all(refused(decoder, data[:length]) for length in range(len(data)))


@every_place
def test_trailing_bytes_are_refused(case: Case) -> None:
    _, decoder, value = case
    for more in (b"\0", b"\xc0", codec.pack(value)):
        assert refused(decoder, codec.pack(value) + more)


LATER = {"ProductRecord": 1, "ReceiptLine": 2, "OpenDispute": 1}


@every_example
def test_wrong_arity_and_extra_fields_are_refused(name: str) -> None:
    decoder, whole = typed(name), msgpack.unpackb(codec.pack(EXAMPLES[name]))
    assert not refused(decoder, msgpack.packb(whole))
    # What was added later to what is signed or stored may be missing, in the order in which it came.
    needed = len(whole) - LATER.get(name, 0)
    assert all(refused(decoder, msgpack.packb(whole[:count])) for count in range(needed))
    assert not any(refused(decoder, msgpack.packb(whole[:count])) for count in range(needed, len(whole)))
    for extra in (None, 0, b"", ID, []):
        assert refused(decoder, msgpack.packb([*whole, extra]))
    as_map = dict(zip(EXAMPLES[name].__struct_fields__, plain(EXAMPLES[name])[-99:], strict=False))
    assert refused(decoder, msgpack.packb(as_map))


@every_example
def test_a_wrong_name_is_refused(name: str) -> None:
    if not isinstance(EXAMPLES[name], Message):
        return
    decoder, whole = typed(name), msgpack.unpackb(codec.pack(EXAMPLES[name]))
    other = "LogOut" if name != "LogOut" else "GetBalance"
    for wrong in (other, name.lower(), name + "\0", "", name.encode(), 0, None):
        assert refused(decoder, msgpack.packb([wrong, *whole[1:]]))


@every_example
def test_a_field_of_another_type_is_refused(name: str) -> None:
    decoder, whole = typed(name), msgpack.unpackb(codec.pack(EXAMPLES[name]))
    first = 1 if isinstance(EXAMPLES[name], Message) else 0
    for place in range(first, len(whole)):
        for wrong in (None, {}, 1.5, msgpack.ExtType(1, b"x"), msgpack.Timestamp(1), -1, "\0" * 5000):
            changed = [*whole[:place], wrong, *whole[place + 1 :]]
            assert refused(decoder, msgpack.packb(changed)), (place, wrong)


# --- bounds --------------------------------------------------------------------------------------------


def changed(example: str, /, **fields: Any) -> bytes:
    return codec.pack(msgspec.structs.replace(EXAMPLES[example], **fields))


BOUNDS: list[tuple[str, str, list[Any], list[Any]]] = [
    ("AskOrder", "order_id", [ID], [ID[1:], ID + b"\0", b""]),
    ("AskOrder", "status_secret", [HASH], [HASH[1:], HASH + b"\0"]),
    ("BlindedToken", "key_id", [KEY], [KEY[1:], KEY + b"\0"]),
    ("BlindedToken", "blinded", [RSA], [RSA[1:], RSA + b"\0"]),
    ("Forward", "token", [bytes(76)], [bytes(75), bytes(77)]),
    ("Hello", "ephemeral", [bytes(1216)], [bytes(1215), bytes(1217)]),
    ("SignUp", "name", ["a", "ä" * 64], ["", "a" * 65]),
    ("LogIn", "password", ["p", "p" * 256], ["", "p" * 257]),
    (
        "AskMerchant",
        "merchant",
        ["a", "a-1", "z" * 32],
        ["", "A", "a b", "a/b", "+", "#", "a" * 33, "ä", "a\n", "\na"],
    ),
    ("AskMerchant", "sealed", [bytes(32), bytes(config.MAXIMUM_SEALED)], [bytes(31), bytes(2**16 + 1)]),
    ("GetProduct", "sku", ["A", "a.b_c-9", "x" * 64], ["", "-a", ".a", "a b", "x" * 65, "a/b", "a\n"]),
    ("PlaceOrder", "currency", ["EUR"], ["eur", "EURO", "EU", "EUR\n", ""]),
    ("PlaceOrder", "amount", [1, 10**12], [0, -1, 10**12 + 1, 2**64 - 1, 1.5, "1", True]),
    ("PlaceOrder", "deadline", [0, 2**52], [-1, 2**52 + 1, 2**63, None]),
    ("PlaceOrder", "coins", [[TOKEN], [TOKEN] * 64], [[], [TOKEN] * 65]),
    ("Swap", "blinded", [[EXAMPLES["BlindedToken"]] * 64], [[], [EXAMPLES["BlindedToken"]] * 65]),
    ("Withdraw", "coins", [[], [EXAMPLES["BlindedToken"]] * 64], [[EXAMPLES["BlindedToken"]] * 65]),
    ("FetchCells", "cells", [1, 64], [0, 65, -1]),
    (
        "Cells",
        "cells",
        [[bytes(52)], [bytes(64 * 1024 + 52)] * 4],
        [[], [bytes(51)], [bytes(64 * 1024 + 53)], [bytes(52)] * 5],
    ),
    ("AnswerOrder", "verdict", ["accepted", "rejected"], ["", "captured", b"accepted", 1]),
    ("AnswerOrder", "answer", [b"", SEALED], [bytes(config.MAXIMUM_SEALED + 1), "text"]),
    ("OrderAnswer", "state", ["held", "refunded"], ["draft", "", None]),
    ("OrderAnswer", "merchant_online", [True, False], [0, 1, None, "true"]),
    ("Refused", "code", ["busy"], ["", "unheard of", 5]),
    ("Welcome", "scope", ["account", "shop", "merchant"], ["operator", "", None]),
    ("OrderRequest", "lines", [[EXAMPLES["OrderLine"]] * 20], [[], [EXAMPLES["OrderLine"]] * 21]),
    ("OrderLine", "quantity", [1, 1000], [0, 1001, -1]),
    ("OrderLine", "unit_price", [0, 10**12], [-1, 10**12 + 1]),
    ("OrderLine", "discount", [0, 10**12], [-1, 10**12 + 1, 2**64 - 1]),
    (
        "OrderRequest",
        "code",
        ["", "ABCD", "A-1B", "Z" * 32],
        ["ABC", "abcd", "-ABC", "A" * 33, "AB D", "ABCD\n"],
    ),
    ("GetQuote", "code", ["", "SUMMER"], ["SUM", "summer", "SUMMER\0"]),
    ("GetQuote", "lines", [[EXAMPLES["QuoteLine"]] * 20], [[], [EXAMPLES["QuoteLine"]] * 21]),
    ("QuoteLine", "quantity", [1, 1000], [0, 1001, -1]),
    ("Tax", "rate", [0, 10_000], [-1, 10_001]),
    ("Tax", "amount", [0, 10**12], [-1, 10**12 + 1]),
    ("ReceiptLine", "discount", [0, 10**12], [-1, 10**12 + 1]),
    ("Receipt", "total", [1, 10**12], [0, -1, 10**12 + 1]),
    ("Quote", "total", [1, 10**12], [0, -1, 10**12 + 1]),
    ("ProductRecord", "tax_rate", [0, 10_000], [-1, 10_001]),
    ("GetCells", "count", [1, 64], [0, 65]),
    ("IssuerKey", "month", ["2027-01", "2027-12"], ["2027-00", "2027-13", "2027-1", "27-01", "2027-01\n"]),
    ("IssuerKey", "purpose", ["coin", "ticket"], ["", "voucher"]),
    ("MerchantCredential", "counter", [1, 2**52], [0, 2**52 + 1]),
    ("MerchantCredential", "certificate", [bytes(64), bytes(2048)], [bytes(63), bytes(2049)]),
    ("MerchantCredential", "signature", [bytes(64), bytes(384)], [bytes(63), bytes(385)]),
    ("ProductRecord", "description", ["", "x" * 4000], ["x" * 4001]),
    ("ProductRecord", "tags", [[], ["x" * 40] * 16], [["x"] * 17, [""], ["x" * 41]]),
    ("ListProducts", "search", ["", "x" * 200], ["x" * 201]),
    ("BrokerCard", "hello_keys", [[EXAMPLES["SlotKey"]] * 4], [[], [EXAMPLES["SlotKey"]] * 5]),
    ("MerchantCard", "order_prekeys", [[EXAMPLES["SlotKey"]] * 32], [[], [EXAMPLES["SlotKey"]] * 33]),
]


@pytest.mark.parametrize(("name", "field", "good", "bad"), BOUNDS, ids=[f"{b[0]}.{b[1]}" for b in BOUNDS])
def test_bounds(name: str, field: str, good: list[Any], bad: list[Any]) -> None:
    decoder = typed(name)
    for value in good:
        decoder.unpack(changed(name, **{field: value}))
    for value in bad:
        assert refused(decoder, changed(name, **{field: value})), value


def test_a_frame_holds_one_message_at_least_and_64_at_most() -> None:
    body = envelope(EXAMPLES["LogOut"])
    for decoder in (codec.FROM_ACCOUNT, codec.FROM_SHOP):
        assert len(decoder.unpack(codec.pack([body] * 64))) == 64
        assert refused(decoder, codec.pack([]))
        assert refused(decoder, codec.pack([body] * 65))


# --- scopes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", UNIONS)
def test_a_scope_decodes_its_own_messages_alone(place: str) -> None:
    decoder, types = UNIONS[place]
    for name, example in EXAMPLES.items():
        allowed = type(example) in types
        assert refused(decoder, codec.pack([envelope(example)])) != allowed, name


def test_account_and_shop_share_only_what_names_neither() -> None:
    up = UNIONS["from account"][1] & UNIONS["from shop"][1]
    assert {kind.__name__ for kind in up} == {"LogOut"}
    down = UNIONS["to account"][1] & UNIONS["to shop"][1]
    assert {kind.__name__ for kind in down} == {"LoggedOut", "Refused", "SessionEnded"}
    fields = {name for kind in UNIONS["from account"][1] for name in kind.__struct_fields__}  # type: ignore[attr-defined]
    assert fields == {
        *("request", "operation", "coins", "tickets", "amount", "currency", "card", "after"),
        *("password", "new_password", "device", "secret", "code"),
    }


# --- garbage -------------------------------------------------------------------------------------------

ALL_DECODERS = [decoder for decoder, _ in (*UNIONS.values(), *PLAIN.values())]


@given(st.binary(max_size=200))
def test_garbage_is_malformed_and_nothing_else(data: bytes) -> None:
    for decoder in ALL_DECODERS:
        assert refused(decoder, data)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=40)
    | st.sampled_from([*EXAMPLES, ID, HASH, KEY]),
    lambda children: (
        st.lists(children, max_size=8) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=25,
)


@given(values)
def test_msgpack_of_any_shape_is_malformed(value: Any) -> None:
    data = msgpack.packb(value)
    for decoder in ALL_DECODERS:
        assert refused(decoder, data)


@given(st.sampled_from(CASES), st.data())
def test_a_changed_byte_is_another_message_or_malformed(case: Case, data: st.DataObject) -> None:
    _, decoder, value = case
    packed = bytearray(codec.pack(value))
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= data.draw(st.integers(1, 255))
    try:
        other = decoder.unpack(bytes(packed))
    except MalformedError:
        return
    assert other != value or codec.pack(other) == codec.pack(value)


@pytest.mark.parametrize("head", [b"\x91", b"\xdc\x00\x01", b"\x81\xa1a"])
def test_deep_nesting_is_malformed(head: bytes) -> None:
    for decoder in ALL_DECODERS:
        assert refused(decoder, head * 60_000)


@pytest.mark.parametrize(
    "data", [b"\xdd\xff\xff\xff\xff", b"\x91\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
)
def test_a_length_that_lies_reserves_no_memory(data: bytes) -> None:
    for decoder in ALL_DECODERS:
        assert refused(decoder, data)


# --- secrets -------------------------------------------------------------------------------------------

SECRETS = {
    "SignUp": ["correct horse", "alice"],
    "LogIn": ["correct horse", "alice"],
    "Hello": ["correct horse", repr(HASH)],
    "Token": [repr(RSA), repr(HASH[::-1]), repr(HASH)],
    "TicketCredential": [repr(RSA), repr(HASH[::-1])],
    "SealedRequest": [repr(HASH)],
    "AskOrder": [repr(HASH)],
    "AnswerKept": [repr(HASH)],
    "ConfirmDelivery": [repr(HASH)],
    "CancelOrder": [repr(HASH)],
    "OpenDispute": [repr(HASH)],
    "ClaimRefund": [repr(HASH)],
    "GetCells": [repr(HASH)],
    "PlaceOrder": [repr(HASH[::-1])],
    "Swap": [repr(HASH[::-1])],
}


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_not_in_the_repr(name: str) -> None:
    text = repr(EXAMPLES[name])
    for secret in SECRETS[name]:
        assert secret.removeprefix("b'").removesuffix("'") not in text
    assert EXAMPLES[name].__class__.__name__ in text


def test_an_error_holds_no_content() -> None:
    data = codec.pack([envelope(EXAMPLES["LogIn"])])
    with pytest.raises(MalformedError) as caught:
        codec.FROM_ACCOUNT.unpack(data)
    assert "correct horse" not in str(caught.value)
