"""`veilmart customer web` as a process: its ready line, its link, its end. No bus is there at all."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cli import veilmart
from real_market import environment

from mosquitto import free_ports


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    home, profile = tmp_path / "market", tmp_path / "alice"
    public, nodes = free_ports(2)
    ports = ("--public-port", str(public), "--node-port", str(nodes))
    assert veilmart("init", *ports, home=home).code == 0
    assert veilmart("join", home / "market.json", "--no-passphrase", "--profile", profile).code == 0
    return profile


@contextmanager
def served(profile: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "veilmart", "customer", "web", "--profile", str(profile), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(), text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


def get(link: str, path: str = "", cookie: str = "", host: str = "") -> http.client.HTTPResponse:
    parts = urlsplit(link)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    headers = {name: value for name, value in (("Cookie", cookie), ("Host", host)) if value}
    connection.request("GET", path or f"{parts.path}?{parts.query}", headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def test_it_serves_one_browser_and_ends_by_a_signal(profile: Path) -> None:
    with served(profile, "--json") as (process, line):
        said = json.loads(line)["data"]
        link, token = said["ready"], Path(said["token_file"])
        assert said["api"] == link.partition("/enter")[0] + "/api/v1"
        assert urlsplit(link).hostname == "127.0.0.1"
        entered = get(link)
        assert (entered.status, entered.headers["Location"]) == (303, "/")
        assert "Server" not in entered.headers
        cookie = (entered.headers["Set-Cookie"] or "").split(";")[0]
        assert get(link, "/cart").status == 401
        assert get(link, "/cart", cookie).status == 200
        assert get(link, "/cart", cookie, host="evil.example").status == 421
        assert get(link, "/", cookie).status == 503
        # A second one on the same profile would spend its coins twice.
        with served(profile) as (second, nothing):
            assert (nothing, second.wait(30)) == ("", 1)
            assert second.stderr is not None
            assert "another process works on the profile" in second.stderr.read()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "", "")
    assert token == profile / "api-token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text().strip() not in line


def test_a_port_that_is_taken_is_said_in_a_line(profile: Path) -> None:
    with served(profile) as (process, line):
        port = urlsplit(line.split()[1]).port
        assert process.stdout is not None
        api = process.stdout.readline()
        assert api == f"api http://127.0.0.1:{port}/api/v1 with the token in {profile}/api-token\n"
        ran = veilmart("customer", "web", "--port", str(port), "--profile", profile)
    assert ran.code == 2
    assert f"Port {port} of 127.0.0.1 cannot be used" in ran.err
