"""Invoices: what the merchant signed, for people; and proofs short enough for a QR code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pypdf
import pytest
import segno
from cli import veilmart
from customer_shop import Bazaar, content, home
from hypothesis import given, settings
from hypothesis import strategies as st
from world import World

from common import codec
from common.amounts import line_amounts
from common.errors import NotFoundError, UntrustedError, UsageError
from common.money import format_amount
from customer_node import Buyer, Market, proofs
from customer_node.invoices import page, pdf
from customer_node.invoices.model import Invoice
from customer_node.views import ReceiptLineView, ReceiptView, TaxView

HOSTILE = "<script>alert(1)</script> **bold** {{ 7*7 }} \u202egpj.exe"
UNICODE = "Ελληνικά, Łódź, Київ, naïve 5 €"
BUYER = Buyer("Zoë Ünal", "1 <b>Main</b> Street\nŁódź")


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = Bazaar(World(tmp_path_factory.mktemp("bazaar")))
    inventory = built.world.add_merchant("sports").inventory
    folder = built.world.root
    for sku, title, price, rate in (("HOSTILE", HOSTILE, 333, 700), ("UNICODE", UNICODE, 105, 1900)):
        path = folder / f"{sku}.bin"
        path.write_bytes(content(sku, 10))
        inventory.add(path, sku, title=title, price=price, tax_rate=rate)
    yield built
    built.world.close()


@pytest.fixture(scope="module")
def profile(bazaar: Bazaar) -> Path:
    with bazaar.customer() as market:
        market.cart.add("sports", "HOSTILE", 3)
        market.cart.add("sports", "UNICODE", 5)
        market.buy()
        return home(market)


@pytest.fixture
def market(bazaar: Bazaar, profile: Path) -> Iterator[Market]:
    with Market(profile, connect=bazaar.world.connect) as opened:
        yield opened


@pytest.fixture(scope="module")
def invoice(profile: Path) -> Invoice:
    with Market(profile) as market:
        return market.invoice(market.last_order().order_id, BUYER)


@pytest.fixture(scope="module")
def document(invoice: Invoice) -> bytes:
    return pdf.render(invoice)


def text_of(document: bytes) -> str:
    return "\n".join(each.extract_text() for each in pypdf.PdfReader(BytesIO(document)).pages)


def code_of(document: bytes) -> list[str]:
    """The drawn modules of a page's QR codes: each run of dark ones is a rectangle."""
    drawn = pypdf.PdfReader(BytesIO(document)).pages[-1].get_contents()
    assert drawn is not None
    return re.findall(r"^([\d. -]+) re f$", drawn.get_data().decode("latin-1"), re.MULTILINE)


# --- what stands on it ---------------------------------------------------------------------------------


def test_a_pdf_says_what_the_merchant_signed(invoice: Invoice, document: bytes):
    text = text_of(document)
    receipt = invoice.receipt
    for line in receipt.lines:
        figures = line_amounts(line.unit_price, line.quantity, line.discount, line.tax.rate)
        assert (line.amount, line.tax.amount) == (figures.amount, figures.tax.amount)
        assert f"{line.quantity} {format_amount(line.unit_price, 'EUR')}" in text
        assert format_amount(line.amount, "EUR") in text
    # 3 x 3.33 with 7 % in it: 9.99 / 1.07 is 9.3364, half up 9.34; 5 x 1.05 with 19 %: 4.4118, so 4.41.
    assert [(tax.base, tax.amount) for tax in receipt.taxes] == [(934, 65), (441, 84)]
    for words in ("Total: 15.24 EUR", "7 %: 0.65 EUR", "19 %: 0.84 EUR", UNICODE, receipt.order_id):
        assert words in text
    assert invoice.merchant_name in text
    assert invoice.merchant_name == "The sports shop"
    for words in ("Zoë Ünal", "1 <b>Main</b> Street", "Łódź"):
        assert words in text
    assert pdf.render(invoice) == document, "the same invoice, the same bytes"


def test_hostile_words_are_words(invoice: Invoice, document: bytes):
    plain = " ".join(HOSTILE.replace("\u202e", " ").split())
    assert plain in text_of(document).replace("\n", " ")
    html = page.render(invoice).decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; **bold** {{ 7*7 }} gpj.exe" in html
    assert "&lt;b&gt;Main&lt;/b&gt;" in html
    assert "<script" not in html
    assert "\u202e" not in html
    assert "http:" not in html, "nothing is fetched"
    assert "https:" not in html


def test_a_letter_that_the_font_lacks_is_owned_up_to(invoice: Invoice, document: bytes):
    assert "font lacks" not in text_of(document)
    japanese = replace(invoice, buyer=Buyer("山田"))
    assert "font lacks" in text_of(pdf.render(japanese))
    assert "山田" in page.render(japanese).decode()


def test_an_order_of_twenty_lines_takes_more_than_a_page():
    tax = TaxView(1900, 84, 16)
    line = ReceiptLineView("SKU", "wide " * 20, 1, 100, 0, 100, tax, "file", 1, "00")
    receipt = ReceiptView("ab" * 16, "cd" * 16, "sports", (line,) * 20, 2000, 0, (tax,), 2000, "EUR", 0, "ef")
    proof = tuple(f"{proofs.PREFIX}{number}/4:{'A' * 300}" for number in range(1, 5))
    text = text_of(pdf.render(Invoice(receipt, "", Buyer(), 700, proof)))
    assert text.count("SKU") == 20
    assert "Given back since: 7.00 EUR" in text
    assert "Buyer" not in text


@pytest.mark.parametrize("words", [("x" * 201, ""), ("a\nb", ""), ("", "x" * 1001), ("", "\n" * 12)])
def test_words_that_fit_no_page(words: tuple[str, str]):
    with pytest.raises(UsageError):
        Buyer(*words)


# --- the QR code ---------------------------------------------------------------------------------------


def test_the_drawn_code_is_the_proof_and_the_proof_verifies(
    invoice: Invoice, document: bytes, market: Market
):
    (text,) = invoice.proof
    matrix = segno.make_qr(text, error="l").matrix
    runs = sum(row.count(1) - sum(a == b == 1 for a, b in pairwise(row)) for row in matrix)
    drawn = code_of(document)
    assert len(drawn) == runs
    assert len(set(drawn)) == runs
    assert str(page.code_svg(text)) in page.render(invoice).decode()
    assert market.verify_receipt(text) == invoice.receipt
    assert market.verify_receipt(text.lower()) == invoice.receipt, "as some readers give it"


def test_proofs_of_several_parts(invoice: Invoice, market: Market, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(proofs, "PART_LETTERS", 400)
    parts = proofs.write(proofs.read(invoice.proof[0]))
    assert len(parts) > 2
    assert all(len(part) < 430 for part in parts)
    assert market.verify_receipt("\n".join(reversed(parts))) == invoice.receipt
    with pytest.raises(UsageError, match="Part 2 of"):
        market.verify_receipt(parts[0] + "".join(parts[2:]))


def test_a_changed_proof_is_refused(invoice: Invoice, market: Market):
    proof = proofs.read(invoice.proof[0])
    receipt = codec.RECEIPT.unpack(proof.receipt)
    changed = codec.pack(type(receipt)(**{**as_fields(receipt), "total": receipt.total + 1}))
    for wrong in (
        replace_part(proof, receipt=changed),
        replace_part(proof, signature=bytes(64)),
        replace_part(proof, certificate=bytes(64)),
    ):
        with pytest.raises(UntrustedError):
            market.verify_receipt("".join(proofs.write(wrong)))
    for text in (
        "",
        proofs.PREFIX,
        f"{proofs.PREFIX}1/1:AAAA",
        invoice.proof[0][:-9],
        invoice.proof[0][:600],
    ):
        with pytest.raises(UntrustedError):
            market.verify_receipt(text)


def as_fields(part: object) -> dict[str, object]:
    return {name: getattr(part, name) for name in part.__struct_fields__}  # type: ignore[attr-defined]


def replace_part(proof: proofs.Proof, **changes: bytes) -> proofs.Proof:
    return proofs.Proof(**{**as_fields(proof), **changes})  # type: ignore[arg-type]


def test_a_proof_that_would_swell_is_refused():
    bomb = proofs.Proof(receipt=b"\0" * 2**20, signature=bytes(64), certificate=bytes(64))
    with pytest.raises(UntrustedError):
        proofs.read("".join(proofs.write(bomb)))


@settings(max_examples=30)
@given(st.binary(max_size=4000), st.binary(min_size=64, max_size=384), st.binary(min_size=64, max_size=2048))
def test_what_is_written_is_read(receipt: bytes, signature: bytes, certificate: bytes):
    proof = proofs.Proof(receipt=receipt, signature=signature, certificate=certificate)
    assert proofs.read(" ".join(proofs.write(proof))) == proof


# --- the buyer's words, and the command ----------------------------------------------------------------


def test_the_buyer_is_kept_sealed_and_sent_to_nobody(bazaar: Bazaar, market: Market):
    passed = len(bazaar.world.bus.passed)
    order = market.last_order().order_id
    assert market.invoice(order).buyer == Buyer()
    market.keep_buyer(BUYER)
    assert market.invoice(order).buyer == market.buyer == BUYER
    assert len(bazaar.world.bus.passed) == passed, "nobody was asked or told"
    files = [path.read_bytes() for path in home(market).rglob("*") if path.is_file()]
    assert files
    assert not any("Zoë".encode() in data or b"Main" in data for data in files)
    market.keep_buyer(Buyer())
    assert market.buyer == Buyer()
    with pytest.raises(NotFoundError):
        market.invoice("ffff")


def test_the_command(profile: Path, invoice: Invoice, tmp_path: Path):
    order = invoice.receipt.order_id
    where = ("--profile", profile)
    out, page_path = tmp_path / "invoice.pdf", tmp_path / "invoice.html"
    words = ("--name", "Zoë", "--address", "1 Main Street", "--address", "Łódź", "--keep")
    made = veilmart("--json", "invoice", order, "--pdf", out, "--html", page_path, *words, *where).data
    assert made["invoice"]["buyer"] == {"name": "Zoë", "address": "1 Main Street\nŁódź"}
    assert "1 Main Street" in text_of(out.read_bytes())
    assert "Łódź" in page_path.read_text()
    again = veilmart("--json", "customer", "invoice", "--last", *where).data
    assert again["invoice"] == made["invoice"]
    (text,) = again["invoice"]["proof"]
    market_file = profile / "market.json"
    verified = veilmart("--json", "receipt", "verify", text, "--market", market_file).data
    assert verified == made["invoice"]["receipt"]
    (tmp_path / "scanned.txt").write_text(f"{text}\n")
    assert veilmart("--json", "receipt", "verify", tmp_path / "scanned.txt", *where).data == verified
    assert veilmart("--json", "receipt", "verify", text[:-7] + "AAAAAAA", *where).error["code"] == "untrusted"
    assert veilmart("--json", "receipt", "verify", "a", "b", *where).error["code"] == "usage"
    assert (
        veilmart("--json", "invoice", order, "--pdf", tmp_path / "no" / "x.pdf", *where).error["code"]
        == "usage"
    )
