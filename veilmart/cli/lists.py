"""Installing what the CA has made into another home: revocation lists, renewed certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.validity import MAX_CRL_BYTES, install_crl
from veilmart.ca import load_ca_certificate
from veilmart.cli.homes import read_small_file


def install_list(home: Path, name: str, ca_name: str, source: Path) -> tuple[dict[str, Any], str]:
    """Install the revocation list `source` as `name` of a home; give data and text for the output.

    Raises `UsageError` where a file cannot be read, `UntrustedError` for a list that is not this CA's or
    is older than the one in place.
    """
    authority = load_ca_certificate(home / ca_name)
    changed = install_crl(home / name, read_small_file(source, MAX_CRL_BYTES), authority)
    text = "installed" if changed else "was in place already"
    return {"path": home / name, "changed": changed}, f"{home / name}: {text}"
