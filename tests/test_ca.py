"""The market CA: who gets a certificate, who does not, and what a certificate proves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from common import keys, topics
from common.clock import now_ms
from common.errors import (
    ForgedError,
    MalformedError,
    NotFoundError,
    RejectedError,
    UntrustedError,
    UsageError,
)
from common.market_file import Address, MarketFile
from common.validity import NEAR_END_MS, crl_number, install_crl, is_revoked, load_crl, near_end
from veilmart import ca, certificates
from veilmart.certificates import build_request, hosts_of

if TYPE_CHECKING:
    from collections.abc import Callable
from pathlib import Path

NOW = now_ms()
DAY = 24 * 3600 * 1000
YEAR = 365 * DAY


class Authority:
    def __init__(self, home: Path, key_type: keys.KeyType) -> None:
        self.home, self.key_type = home, key_type
        self.certificate = ca.create_ca(home, key_type=key_type, now_ms=NOW)
        self.der = self.certificate.public_bytes(serialization.Encoding.DER)

    def sign(self, key: keys.IdentityKey, name: str, now: int = NOW) -> bytes:
        return ca.sign_csr(self.home, build_request(key, name), name, now_ms=now)

    def verify(self, pem: bytes, role: keys.Role, now: int = NOW) -> keys.CertificateInfo:
        return keys.verify_certificate(to_der(pem), self.der, now, role)


@pytest.fixture(params=keys.KEY_TYPES)
def authority(request: pytest.FixtureRequest, tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca", request.param)


@pytest.fixture
def key() -> keys.IdentityKey:
    return keys.IdentityKey.generate()


def to_der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)


# Identity keys.


@pytest.mark.parametrize("key_type", keys.KEY_TYPES)
def test_a_signature_binds_key_label_and_data(tmp_path: Path, key_type: keys.KeyType) -> None:
    key = keys.IdentityKey.generate(key_type)
    key.save(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    signature = keys.IdentityKey.load(tmp_path / "key").sign(b"label v1", b"data")
    keys.verify_identity(key.public, b"label v1", b"data", signature)
    other = keys.IdentityKey.generate(key_type)
    for public, label, data, made in (
        (other.public, b"label v1", b"data", signature),
        (key.public, b"label v2", b"data", signature),
        (key.public, b"label v1", b"datA", signature),
        (key.public, b"label v1", b"data", signature[:-1]),
        (key.public, b"label v1", b"data", bytes([signature[0] ^ 1]) + signature[1:]),
        (key.public, b"label v1", b"data", b""),
        (key.public, b"label v1", b"data", bytes(5000)),
    ):
        with pytest.raises(ForgedError):
            keys.verify_identity(public, label, data, made)


def test_a_private_key_is_never_overwritten_nor_shown(tmp_path: Path, key: keys.IdentityKey) -> None:
    key.save(tmp_path / "key")
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(FileExistsError):
        keys.IdentityKey.generate().save(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    secret = key.private.private_bytes_raw()
    assert secret.hex() not in repr(key)
    assert keys.identity_fingerprint(key.public).hex() in repr(key)


@pytest.mark.parametrize("size", [2048, 3072])
def test_rsa_keys_below_3072_bits_are_no_identity(size: int) -> None:
    public = rsa.generate_private_key(public_exponent=65537, key_size=size).public_key()
    der = keys.public_to_der(public)
    if size == 3072:
        assert keys.public_to_der(keys.public_from_der(der)) == der
    else:
        with pytest.raises(MalformedError):
            keys.public_from_der(der)


# What the CA signs.


def test_certificates_are_equally_long_whatever_number_they_draw(
    authority: Authority, key: keys.IdentityKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card holds one, and its length is public."""
    issuer = certificates.Authority(
        keys.IdentityKey.load(authority.home / ca.CA_KEY_FILE), authority.certificate
    )
    lengths = set()
    for number in (1, 2**151 - 1, 2**158, 2**159 - 1):
        monkeypatch.setattr(x509, "random_serial_number", lambda number=number: number)
        made = certificates.issue(issuer, key.public, "sports", role="merchant", hosts=(), now_ms=NOW)
        lengths.add(len(made.public_bytes(serialization.Encoding.DER)))
    assert len(lengths) == 1


@pytest.mark.parametrize("key_type", keys.KEY_TYPES)
def test_a_merchant_gets_a_certificate(authority: Authority, tmp_path: Path, key_type: keys.KeyType) -> None:
    request = ca.make_request(tmp_path / "merchant", "sports", key_type=key_type)
    pem = ca.sign_csr(authority.home, request, "sports", now_ms=NOW)
    assert ca.install_certificate(tmp_path / "merchant", pem, authority.certificate, now_ms=NOW) == "sports"
    info = authority.verify(pem, "merchant")
    key = keys.IdentityKey.load(tmp_path / "merchant" / "identity.key")
    assert (info.subject_id, info.role) == ("sports", "merchant")
    assert info.fingerprint == keys.identity_fingerprint(key.public)
    assert NOW + YEAR - 1000 <= info.not_after <= NOW + YEAR
    # The key was kept, so the same certificate comes back.
    again = ca.make_request(tmp_path / "merchant", "sports")
    assert ca.sign_csr(authority.home, again, "sports", now_ms=NOW + DAY) == pem


@pytest.mark.parametrize(
    "name", ["broker", "bus", "ca", "auditor", "", "A", "a/b", "+", "#", "a" * 33, "ä", "a\n"]
)
def test_no_merchant_has_such_a_name(authority: Authority, key: keys.IdentityKey, name: str) -> None:
    common_name = name or "x"
    with pytest.raises(UsageError):
        ca.sign_csr(authority.home, build_request(key, common_name), name, now_ms=NOW)
    with pytest.raises(UsageError):
        ca.make_request(authority.home / "merchant", name)


def test_a_request_for_broker_is_not_signed_under_another_name(
    authority: Authority, key: keys.IdentityKey
) -> None:
    with pytest.raises(UntrustedError, match="not for 'sports'"):
        ca.sign_csr(authority.home, build_request(key, "broker"), "sports", now_ms=NOW)
    assert list((authority.home / "issued").iterdir()) == []


def test_of_a_request_only_key_and_name_are_taken(authority: Authority, key: keys.IdentityKey) -> None:
    # It asks to be the broker by OU, a CA, and a TLS server.
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "sports"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "broker"),
        ]
    )
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key.private, None)
    )
    pem = ca.sign_csr(authority.home, request.public_bytes(serialization.Encoding.PEM), "sports", now_ms=NOW)
    assert authority.verify(pem, "merchant").subject_id == "sports"
    assert hosts_of(x509.load_pem_x509_certificate(pem)) == ()
    for role in ("broker", "bus"):
        with pytest.raises(ForgedError):
            authority.verify(pem, role)


def test_unfit_requests_are_refused(authority: Authority, key: keys.IdentityKey) -> None:
    genuine = build_request(key, "sports")
    der = bytearray(x509.load_pem_x509_csr(genuine).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sports")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    small = builder.sign(rsa.generate_private_key(public_exponent=65537, key_size=2048), hashes.SHA256())
    curve = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    pems = [each.public_bytes(serialization.Encoding.PEM) for each in (small, curve)]
    for pem in (forged, *pems, b"", b"garbage", genuine[:-40], genuine + bytes(8192)):
        with pytest.raises(UntrustedError):
            ca.sign_csr(authority.home, pem, "sports", now_ms=NOW)
    assert list((authority.home / "issued").iterdir()) == []


def test_a_name_keeps_its_key_and_a_key_its_name(authority: Authority, key: keys.IdentityKey) -> None:
    authority.sign(key, "sports")
    with pytest.raises(RejectedError, match="certified for another key"):
        authority.sign(keys.IdentityKey.generate(), "sports")
    with pytest.raises(RejectedError, match="certified as 'sports'"):
        authority.sign(key, "books")
    with pytest.raises(RejectedError, match="certified as 'sports'"):
        ca.certify_broker(authority.home, key.public, now_ms=NOW)


def test_renewal_keeps_key_role_and_hosts(authority: Authority) -> None:
    broker, bus = keys.IdentityKey.generate(), keys.IdentityKey.generate()
    first = ca.certify_broker(authority.home, broker.public, now_ms=NOW)
    ca.certify_bus(authority.home, bus.public, ["market.example", "192.0.2.1"], now_ms=NOW)
    later = NOW + 350 * DAY
    assert near_end(authority.verify(first, "broker", later), later)
    assert not near_end(authority.verify(first, "broker"), NOW)
    renewed = authority.verify(ca.renew(authority.home, "broker", now_ms=later), "broker", later)
    assert renewed.not_after - later > NEAR_END_MS
    assert renewed.fingerprint == keys.identity_fingerprint(broker.public)
    server = ca.renew(authority.home, "bus", now_ms=later)
    assert authority.verify(server, "bus", later).fingerprint == keys.identity_fingerprint(bus.public)
    hosts = hosts_of(x509.load_pem_x509_certificate(server))
    assert hosts == ("market.example", "192.0.2.1", "localhost", "127.0.0.1")
    moved = ca.renew(authority.home, "bus", hosts=["new.example"], now_ms=later + DAY)
    assert hosts_of(x509.load_pem_x509_certificate(moved))[0] == "new.example"
    with pytest.raises(NotFoundError):
        ca.renew(authority.home, "nobody", now_ms=NOW)


# Revocation.


def test_a_revoked_merchant_stays_out(authority: Authority, key: keys.IdentityKey) -> None:
    pem, other = authority.sign(key, "sports"), authority.sign(keys.IdentityKey.generate(), "books")
    second = ca.renew(authority.home, "sports", now_ms=NOW)
    path = ca.revoke(authority.home, "sports", now_ms=NOW)
    crl = load_crl(path.read_bytes(), authority.certificate)
    assert is_revoked(crl, authority.verify(pem, "merchant"))
    assert is_revoked(crl, authority.verify(second, "merchant"))
    assert not is_revoked(crl, authority.verify(other, "merchant"))
    once = path.read_bytes()
    ca.revoke(authority.home, "sports", now_ms=NOW + DAY)
    assert path.read_bytes() == once
    ca.revoke(authority.home, "books", now_ms=NOW + DAY)
    both = load_crl(path.read_bytes(), authority.certificate)
    assert len(list(both)) == 3
    for again in (key, keys.IdentityKey.generate()):
        with pytest.raises(RejectedError, match="revoked"):
            authority.sign(again, "sports")
    with pytest.raises(RejectedError, match="revoked"):
        ca.renew(authority.home, "sports", now_ms=NOW)
    with pytest.raises(NotFoundError):
        ca.revoke(authority.home, "nobody", now_ms=NOW)


def test_a_list_holds_as_long_as_the_ca(authority: Authority) -> None:
    crl = load_crl((authority.home / "crl.pem").read_bytes(), authority.certificate)
    assert crl.next_update_utc == authority.certificate.not_valid_after_utc


def test_only_this_cas_newer_list_is_installed(
    authority: Authority, tmp_path: Path, key: keys.IdentityKey
) -> None:
    path, place = authority.home / "crl.pem", tmp_path / "installed.pem"
    old = path.read_bytes()
    assert install_crl(place, old, authority.certificate)
    assert not install_crl(place, old, authority.certificate)
    authority.sign(key, "sports")
    ca.revoke(authority.home, "sports", now_ms=NOW)
    new = path.read_bytes()
    assert install_crl(place, new, authority.certificate)
    stranger = Authority(tmp_path / "other", authority.key_type)
    forged = bytearray(x509.load_pem_x509_crl(new).public_bytes(serialization.Encoding.DER))
    forged[-1] ^= 1
    tampered = x509.load_der_x509_crl(bytes(forged)).public_bytes(serialization.Encoding.PEM)
    for unfit in (old, tampered, (stranger.home / "crl.pem").read_bytes(), b"", b"garbage", bytes(2 << 20)):
        with pytest.raises(UntrustedError):
            install_crl(place, unfit, authority.certificate)
        assert place.read_bytes() == new
    assert crl_number(load_crl(new, authority.certificate)) == 2


# What a certificate proves.


def test_impostors_certificates_are_forged(
    authority: Authority, tmp_path: Path, key: keys.IdentityKey
) -> None:
    genuine = authority.sign(key, "sports")
    stranger = Authority(tmp_path / "other", authority.key_type)
    with pytest.raises(ForgedError):
        authority.verify(stranger.sign(key, "sports"), "merchant")
    for moment in (NOW - DAY, NOW + YEAR + DAY):
        with pytest.raises(ForgedError, match="not valid at this time"):
            authority.verify(genuine, "merchant", moment)
    for role in ("broker", "bus"):
        with pytest.raises(ForgedError):
            authority.verify(genuine, role)
    with pytest.raises(ForgedError):
        keys.verify_certificate(authority.der, authority.der, NOW, "broker")


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # the library's word on some flipped bits
def test_every_flipped_bit_and_truncation_is_refused(tmp_path: Path, key: keys.IdentityKey) -> None:
    authority = Authority(tmp_path / "ca", "ed25519")
    der = to_der(authority.sign(key, "sports"))
    keys.verify_certificate(der, authority.der, NOW, "merchant")
    for length in range(len(der)):
        with pytest.raises((ForgedError, MalformedError)):
            keys.verify_certificate(der[:length], authority.der, NOW, "merchant")
    for position in range(len(der) * 8):
        flipped = bytearray(der)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises((ForgedError, MalformedError)):
            keys.verify_certificate(bytes(flipped), authority.der, NOW, "merchant")
    with pytest.raises(MalformedError, match="too large"):
        keys.verify_certificate(der + bytes(4096), authority.der, NOW, "merchant")


def test_a_merchant_installs_only_its_own_certificate(authority: Authority, tmp_path: Path) -> None:
    home = tmp_path / "merchant"
    ca.make_request(home, "sports")
    other = authority.sign(keys.IdentityKey.generate(), "books")
    stranger = Authority(tmp_path / "other", authority.key_type)
    foreign = stranger.sign(keys.IdentityKey.load(home / "identity.key"), "sports")
    for pem in (other, foreign, b"garbage"):
        with pytest.raises(UntrustedError):
            ca.install_certificate(home, pem, authority.certificate, now_ms=NOW)
    assert not (home / "identity.crt").exists()


# Market file.


def test_a_market_file_survives_the_round_and_nothing_else_passes(
    authority: Authority, tmp_path: Path
) -> None:
    market = MarketFile(
        veilmart_market=1,
        currency="EUR",
        ca_certificate=(authority.home / "ca.crt").read_text(),
        public=Address(host="localhost", port=8883),
        nodes=Address(host="192.0.2.1", port=8884),
        broker_fingerprint="ab" * 32,
        minimum_age_seconds=0,
    )
    path = tmp_path / "market.json"
    market.save(path)
    assert MarketFile.load(path) == market
    assert market.market_id == structs.replace(market, currency="USD").market_id
    assert market.market_id != structs.replace(market, broker_fingerprint="ac" * 32).market_id
    text = path.read_bytes()
    leaf = authority.sign(keys.IdentityKey.generate(), "sports").decode()
    for unfit in (
        structs.replace(market, currency="eur"),
        structs.replace(market, broker_fingerprint="AB" * 32),
        structs.replace(market, broker_fingerprint="ab" * 31),
        structs.replace(market, minimum_age_seconds=-1),
        structs.replace(market, ca_certificate="none"),
        structs.replace(market, ca_certificate=leaf),
        structs.replace(market, public=Address(host="a b", port=1)),
        structs.replace(market, public=Address(host="localhost", port=0)),
        structs.replace(market, veilmart_market=2),
    ):
        with pytest.raises(UntrustedError):
            MarketFile.from_bytes(unfit.to_bytes())
    for unfit in (b"", b"[]", text[:-5], text.replace(b'"currency"', b'"curency"'), text + b" " * 20000):
        with pytest.raises(UntrustedError):
            MarketFile.from_bytes(unfit)
    with pytest.raises(UsageError, match="cannot read"):
        MarketFile.load(tmp_path / "missing.json")


# Topics.


@given(st.binary(min_size=16, max_size=16), st.from_regex(r"[a-z0-9-]{1,32}", fullmatch=True))
def test_parsing_undoes_building(session_id: bytes, merchant_id: str) -> None:
    assert topics.parse(topics.session_up(session_id)) == topics.SessionUp(session_id)
    assert topics.parse(topics.session_down(session_id)) == topics.SessionDown(session_id)
    if merchant_id in topics.RESERVED_IDS:
        return
    for build, kind in (
        (topics.merchant_card, topics.MerchantCard),
        (topics.merchant_status, topics.MerchantStatus),
        (topics.merchant_in, topics.MerchantIn),
        (topics.merchant_out, topics.MerchantOut),
        (topics.merchant_cells, topics.MerchantCells),
    ):
        assert topics.parse(build(merchant_id)) == kind(merchant_id)
    assert topics.parse(topics.broker_card()) == topics.BrokerCard()
    assert topics.parse(topics.broker_status()) == topics.BrokerStatus()
    assert topics.parse(topics.audit_checkpoint()) == topics.AuditCheckpoint()
    assert topics.parse(topics.audit_event("order.held")) == topics.AuditEvent("order.held")
    for number in (0, 10, 999_999_999):
        assert topics.parse(topics.spent_chunk(bytes(8), number)) == topics.SpentChunk(bytes(8), number)


_PIECES = [
    "veilmart",
    "v1",
    "v2",
    "session",
    "merchant",
    "broker",
    "audit",
    "spent",
    "event",
    "card",
    "up",
    "in",
    "+",
    "#",
    "",
]
_NAMES = [
    "sports",
    "bus",
    "0",
    "07",
    "5",
    "00" * 8,
    "00" * 16,
    "AB" * 16,
    "00" * 15,
    "0 " * 16,
    "sports\n",
    "٣" * 4,
    "a" * 33,
]


_BUILDERS: dict[type, Callable[..., str]] = {
    topics.SessionUp: topics.session_up,
    topics.SessionDown: topics.session_down,
    topics.MerchantCard: topics.merchant_card,
    topics.MerchantStatus: topics.merchant_status,
    topics.MerchantIn: topics.merchant_in,
    topics.MerchantOut: topics.merchant_out,
    topics.MerchantCells: topics.merchant_cells,
    topics.SpentChunk: topics.spent_chunk,
    topics.AuditEvent: topics.audit_event,
}


@given(st.lists(st.sampled_from(_PIECES + _NAMES), max_size=7).map("/".join) | st.text(max_size=200))
def test_what_parses_is_what_a_builder_makes(topic: str) -> None:
    try:
        parsed = topics.parse(topic)
    except MalformedError:
        return
    build = _BUILDERS.get(type(parsed))
    if build is None:
        assert topic in {topics.broker_card(), topics.broker_status(), topics.audit_checkpoint()}
    else:
        assert topic == build(*(getattr(parsed, name) for name in parsed.__dataclass_fields__))


@pytest.mark.parametrize("session_id", [b"", bytes(15), bytes(17)])
def test_a_session_id_has_16_bytes(session_id: bytes) -> None:
    with pytest.raises(MalformedError):
        topics.session_up(session_id)
