"""A merchant's dashboard in a process of its own, opened as a browser opens it, and timed."""

from __future__ import annotations

import http.client
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from bench.processes import ROOT, STOP_S, peak_rss_mb

TIMEOUT_S = 120.0


class Dashboard:
    """A running `veilmart merchant web`, and a browser that was let in."""

    name = "dashboard"

    def __init__(self, home: Path) -> None:
        command = [sys.executable, "-m", "veilmart", "merchant", "web", "--home", str(home)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self._cookie = ""

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        ready = re.match(r"ready (\S+)", self._process.stdout.readline())
        if ready is None:
            self.__exit__()
            raise RuntimeError("the dashboard did not start")
        link = urlsplit(ready[1])
        self._address = link.netloc
        answer, _ = self._send("GET", f"{link.path}?{link.query}")
        self._cookie = (answer.getheader("set-cookie") or "").partition(";")[0]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    @property
    def peak_rss_mb(self) -> float:
        return peak_rss_mb(self._process.pid)

    def open(self, path: str) -> tuple[float, str]:
        """Give how long a page took, in seconds, and the page."""
        begun = time.perf_counter()
        answer, page = self._send("GET", path)
        seconds = time.perf_counter() - begun
        if answer.status != http.client.OK:
            raise RuntimeError(f"{path} was answered with {answer.status}")
        return seconds, page

    def bring(self, table: str, file: tuple[str, bytes]) -> tuple[float, str]:
        """Import a table with a file that its rows name; gives the seconds, and the page that tells of it."""
        _, page = self.open("/import")
        (token,) = set(re.findall(r'name="csrf" value="([^"]+)"', page))
        line = secrets.token_hex(16)
        parts = [
            ('name="csrf"', token.encode()),
            ('name="mode"', b"import"),
            ('name="table"; filename="table.csv"', table.encode()),
            (f'name="files"; filename="{file[0]}"', file[1]),
        ]
        body = b"".join(
            f"--{line}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"
            for head, content in parts
        )
        kind = {"Content-Type": f"multipart/form-data; boundary={line}"}
        begun = time.perf_counter()
        answer, page = self._send("POST", "/import", body + f"--{line}--\r\n".encode(), kind)
        seconds = time.perf_counter() - begun
        where = answer.getheader("location")
        if where is None:
            raise RuntimeError("the table was not taken")
        return seconds, self.open(where)[1]

    def _send(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, str]:
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body, {"Cookie": self._cookie, **(headers or {})})
            answer = connection.getresponse()
            return answer, answer.read().decode()
        finally:
            connection.close()
