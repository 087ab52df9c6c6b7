"""A merchant's dashboard without a socket, over the home of a world of `merchant_world`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from asgi import Answer, Browser
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from jinja2.bccache import Bucket
from merchant_world import Identities, World

from common.web.api import FILE, ApiToken
from common.web.door import Door
from common.web.server import Address
from merchant_node.home import CERTIFICATE, IDENTITY_KEY, MerchantHome, Profile
from merchant_node.web.dashboard import dashboard, make_site
from merchant_node.web.desk import Desk

File = tuple[str, str, bytes]
"""Field, name, content."""


class Compiled(jinja2.BytecodeCache):
    """Templates that an earlier test has compiled."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if bucket.key in self.kept:
            bucket.bytecode_from_string(self.kept[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        self.kept[bucket.key] = bucket.bytecode_to_string()


COMPILED = Compiled()


@dataclass
class Dashboard:
    world: World
    desk: Desk
    browser: Browser
    token: str = field(repr=False)
    """What programs have, instead of a link."""

    def get(self, path: str, status: int = 200) -> Answer:
        answer = self.browser.get(path)
        assert answer.status == status, (answer.status, answer.text)
        return answer

    def text(self, path: str, status: int = 200) -> str:
        return plain(self.get(path, status))

    def post(
        self,
        path: str,
        fields: Mapping[str, str],
        files: Sequence[File] = (),
        *,
        status: int = 303,
        page: str = "/products/new",
    ) -> Answer:
        """Send the form of `page`; `status` is what it must end in."""
        token = self.get(page).csrf
        body, kind = multipart({"csrf": token, **fields}, files)
        answer = self.browser.send("POST", path, body, {"content_type": kind})
        assert answer.status == status, (answer.status, plain(answer))
        return answer

    def follow(self, answer: Answer) -> str:
        return self.text(answer.headers["location"])


def plain(answer: Answer) -> str:
    """A page's words alone, between single blanks."""
    return " ".join(re.sub(r"<[^>]+>", " ", answer.text).split())


def multipart(fields: Mapping[str, str], files: Sequence[File]) -> tuple[bytes, str]:
    line = "----in-between"
    parts = [
        f'--{line}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    parts += [
        f'--{line}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + content
        + b"\r\n"
        for field, name, content in files
    ]
    return b"".join(parts) + f"--{line}--\r\n".encode(), f"multipart/form-data; boundary={line}"


@contextmanager
def opened_dashboard(home: Path, identities: Identities, keys: Path) -> Iterator[Dashboard]:
    """`keys` is the folder that the identities were made in."""
    world = World(home, identities)
    place = MerchantHome(home)
    place.join(identities.market, Profile(name="Sports", description="Plans and routes"))
    shutil.copy(keys / "merchant" / IDENTITY_KEY, home / IDENTITY_KEY)
    certificate = x509.load_der_x509_certificate(identities.merchant_der)
    (home / CERTIFICATE).write_bytes(certificate.public_bytes(Encoding.PEM))
    address, door = Address.free(), Door()
    with address.socket:
        api_token = ApiToken(home / FILE)
        desk = Desk(make_site(door, address, api_token), home, lambda: world.now)
        desk.site.env.bytecode_cache = COMPILED
        desk.start()
        try:
            browser = Browser(dashboard(desk), f"127.0.0.1:{address.port}")
            assert browser.get(f"/enter?token={door.token()}").status == 303
            yield Dashboard(world, desk, browser, api_token.path.read_text().strip())
        finally:
            desk.worker.stop()
            world.close()
