"""An invoice as a PDF: A4, one font that lies beside this file, QR codes drawn as vectors.

Rule. Letters that the font has no picture of (it covers Latin, Greek and Cyrillic) are shown as U+FFFD, and
the page says so: the HTML invoice shows every letter that the reader's machine has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Final

import segno
from fpdf import FPDF, XPos, YPos
from fpdf.enums import TableBordersLayout
from fpdf.fonts import FontFace, TTFFont

from customer_node.invoices.model import COLUMNS, Invoice, Sheet, sheet_of

FONT: Final = Path(__file__).with_name("DejaVuSans.ttf")
MARGIN_MM: Final = 18
CODE_MM: Final = 52
QUIET_MODULES: Final = 4
CODES_PER_ROW: Final = 3
_VERIFY: Final = (
    "the receipt that the merchant signed. `veilmart receipt verify TEXT --market FILE` checks it, off line, "
    "with the market's file."
)
MISSING: Final = (
    "\N{REPLACEMENT CHARACTER} stands for letters that this document's font lacks; "
    "the HTML invoice shows them."
)
_WIDTHS: Final = (56, 17, 24, 24, 29, 24)
_ALIGN: Final = ("LEFT", "RIGHT", "RIGHT", "RIGHT", "RIGHT", "RIGHT")


def render(invoice: Invoice) -> bytes:
    """Give the PDF's bytes."""
    pdf = FPDF(format="A4")
    pdf.set_margin(MARGIN_MM)
    pdf.set_auto_page_break(auto=True, margin=MARGIN_MM)
    pdf.set_creation_date(datetime.fromtimestamp(invoice.receipt.at / 1000, UTC))
    pdf.set_title(f"Invoice {invoice.receipt.order_id}")
    pdf.set_lang("en")
    pdf.add_font("DejaVu", fname=FONT)
    letters = _Letters(pdf)
    pdf.add_page()
    _draw_sheet(pdf, sheet_of(invoice), letters)
    _draw_codes(pdf, invoice.proof)
    if letters.missing:
        _text(pdf, MISSING, 8)
    return bytes(pdf.output())


class _Letters:
    """What the font can show of a text; `missing` tells whether it could not show all."""

    def __init__(self, pdf: FPDF) -> None:
        font = pdf.fonts["dejavu"]
        if not isinstance(font, TTFFont):
            raise TypeError("the font beside this file is a TrueType font")
        self._known = frozenset(font.cmap)
        self.missing = False

    def __call__(self, text: str) -> str:
        shown = "".join(
            letter if ord(letter) in self._known else "\N{REPLACEMENT CHARACTER}" for letter in text
        )
        self.missing = self.missing or shown != text
        return shown


def _text(pdf: FPDF, text: str, size: float, *, width: float = 0, align: str = "L") -> None:
    pdf.set_font("DejaVu", size=size)
    pdf.multi_cell(width, size * 0.5, text, align=align, new_x=XPos.LMARGIN, new_y=YPos.NEXT)


def _draw_sheet(pdf: FPDF, sheet: Sheet, letters: Callable[[str], str]) -> None:
    _text(pdf, "Invoice", 20)
    pdf.ln(4)
    _draw_parties(pdf, "Seller", map(letters, sheet.seller))
    if sheet.buyer:
        _draw_parties(pdf, "Buyer", map(letters, sheet.buyer))
    for name, value in sheet.facts:
        _text(pdf, f"{name}: {letters(value)}", 8)
    pdf.ln(5)
    _draw_items(pdf, sheet, letters)
    pdf.ln(3)
    for name, value in sheet.sums:
        _text(pdf, f"{name}: {value}", 9, align="R")
    _text(pdf, f"Total: {sheet.total}", 12, align="R")
    for name, value in sheet.taxes:
        _text(pdf, f"{name}: {value}", 9, align="R")
    if sheet.refunded:
        _text(pdf, f"Given back since: {sheet.refunded}", 9, align="R")
    pdf.ln(5)


def _draw_parties(pdf: FPDF, name: str, lines: Iterable[str]) -> None:
    _text(pdf, name, 8)
    for line in lines:
        _text(pdf, line, 10)
    pdf.ln(3)


def _draw_items(pdf: FPDF, sheet: Sheet, letters: Callable[[str], str]) -> None:
    pdf.set_font("DejaVu", size=8)
    with pdf.table(
        col_widths=_WIDTHS,
        text_align=_ALIGN,
        borders_layout=TableBordersLayout.HORIZONTAL_LINES,
        headings_style=FontFace(),
        line_height=4.5,
        padding=(1, 1),
    ) as table:
        table.row(COLUMNS)
        for item in sheet.items:
            title = f"{letters(item.title)}\n{item.sku}"
            table.row((title, item.quantity, item.price, item.discount, item.tax, item.amount))


def _draw_codes(pdf: FPDF, proof: tuple[str, ...]) -> None:
    for start in range(0, len(proof), CODES_PER_ROW):
        if pdf.will_page_break(CODE_MM):
            pdf.add_page()
        top = pdf.get_y()
        for column, text in enumerate(proof[start : start + CODES_PER_ROW]):
            _draw_code(pdf, text, pdf.l_margin + column * CODE_MM, top)
        pdf.set_xy(pdf.l_margin, top + CODE_MM)
    _text(pdf, f"{'The code holds' if len(proof) == 1 else 'The codes together hold'} {_VERIFY}", 8)


def _draw_code(pdf: FPDF, text: str, left: float, top: float) -> None:
    """Draw a QR code (ISO/IEC 18004), each run of dark modules as one rectangle."""
    matrix = segno.make_qr(text, error="l").matrix
    module = CODE_MM / (len(matrix) + 2 * QUIET_MODULES)
    pdf.set_fill_color(0)
    for row, modules in enumerate(matrix, QUIET_MODULES):
        column = QUIET_MODULES
        for dark, run in groupby(modules):
            length = len(list(run))
            if dark:
                pdf.rect(left + column * module, top + row * module, length * module, module, style="F")
            column += length
