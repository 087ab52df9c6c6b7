"""An invoice as one HTML file: no script, nothing fetched from anywhere, every word escaped."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import segno
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from customer_node.invoices.model import COLUMNS, Invoice, sheet_of

_TEMPLATES: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
)


def render(invoice: Invoice) -> bytes:
    """Give the page's bytes, UTF-8."""
    page = _TEMPLATES.get_template("invoice.html").render(
        invoice=invoice,
        sheet=sheet_of(invoice),
        columns=COLUMNS,
        codes=[(code_svg(text), text) for text in invoice.proof],
    )
    return page.encode()


def code_svg(text: str) -> Markup:
    """Draw a QR code as inline SVG."""
    drawn = io.BytesIO()
    segno.make_qr(text, error="l").save(
        drawn, kind="svg", xmldecl=False, svgns=False, omitsize=True, border=4, dark="#000", light="#fff"
    )
    # Modules alone: nothing of the text stands in the drawing.
    return Markup(drawn.getvalue().decode())  # noqa: S704 - segno's own paths
