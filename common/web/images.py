"""Pictures in the size that a page needs, made here out of bytes that a stranger wrote.

Rule 1. Only PNG, JPEG and WebP are opened, by what their bytes say; a picture of more than `MOST_PIXELS`
is refused before it is unpacked.

Rule 2. What goes out is written anew: pixels, and nothing else that was in the file.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Final

from PIL import Image, ImageOps, UnidentifiedImageError

from common.errors import UntrustedError

MOST_PIXELS: Final = 40_000_000
FORMATS: Final = ("PNG", "JPEG", "WEBP")
WIDTHS: Final = (96, 240, 480, 960)
"""The widths that pages ask for; another one is raised to the next of these."""

QUALITY: Final = 82


@dataclass(frozen=True)
class Scaled:
    """A picture ready to be sent. Width and height are pixels."""

    media_type: str
    data: bytes = field(repr=False)
    width: int
    height: int


def width_for(wanted: int) -> int:
    """Give the width in which a picture is kept for a page that wants `wanted`."""
    return next((width for width in WIDTHS if width >= wanted), WIDTHS[-1])


def scaled(data: bytes, width: int) -> Scaled:
    """Scale a picture down to `width` pixels, never up. Raises `UntrustedError` for what is no picture."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise UntrustedError("The picture has too many pixels.")
            upright = ImageOps.exif_transpose(opened)
            plain = upright.convert("RGBA" if _is_clear(upright) else "RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UntrustedError("The picture cannot be read.") from error
    if plain.width > width:
        height = max(1, round(plain.height * width / plain.width))
        plain = plain.resize((width, height), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    plain.save(out, "WEBP", quality=QUALITY)
    return Scaled("image/webp", out.getvalue(), plain.width, plain.height)


def _is_clear(image: Image.Image) -> bool:
    return "A" in image.getbands() or "transparency" in image.info
