"""Settings that a person writes: TOML files, and what is said of one that is wrong.

Rule. The error is one line that names the file and the key, and its hint says how to put it right. It
repeats no value but a word that was to be chosen from a few.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from common.errors import UsageError

Settings = TypeVar("Settings", bound=msgspec.Struct)

LISTED: Final = 8
"""More keys than that help nobody in one line."""
_PLACE = re.compile(r"(?P<what>.*?) - at `\$\.?(?P<key>[^`]*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>[^`]*)`")
_MISSING = re.compile(r"Object missing required field `(?P<key>[^`]*)`")


def read_settings(path: Path, kind: type[Settings], advice: str) -> Settings:
    """Read a TOML file. Raises `UsageError`, its hint ending with `advice`; `OSError` where it is missing."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=kind)
    except msgspec.ValidationError as error:
        what, remedy = _explained(str(error), kind)
        raise UsageError(f"{path}: {what}", f"{remedy} {advice}".strip()) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        where = str(error) if isinstance(error, msgspec.DecodeError) else "it is not UTF-8"
        raise UsageError(
            f"{path} is not TOML: {where}", f"Write `key = value` lines. {advice}".strip()
        ) from error


def _explained(said: str, kind: type[msgspec.Struct]) -> tuple[str, str]:
    """Give what is wrong, the key first, and how to put it right."""
    if unknown := _UNKNOWN.fullmatch(said):
        names = [field.encode_name for field in msgspec.structs.fields(kind)]
        near = difflib.get_close_matches(unknown["key"], names, n=1)
        known = f"There are: {', '.join(names)}." if len(names) <= LISTED else "Remove the line."
        remedy = f"Did you mean {near[0]}?" if near else known
        return f"{unknown['key']} is no key of this file", remedy
    if missing := _MISSING.fullmatch(said):
        return f"{missing['key']} is missing", f"Add a line `{missing['key']} = …`."
    if placed := _PLACE.fullmatch(said):
        return f"{placed['key']}: {placed['what'][:1].lower()}{placed['what'][1:]}", "Correct the entry."
    return said, "Correct the entry."
