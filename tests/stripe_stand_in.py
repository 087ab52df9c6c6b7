"""Stripe's place: an HTTP server on this machine that answers as its API documents.

PaymentIntents (create, confirm, retrieve, cancel), form-encoded requests, JSON answers, Bearer keys, and
idempotency keys: "the status code and body of the first request" are kept and sent again, 500s included;
other parameters under a key are an `idempotency_error` (docs.stripe.com/api/idempotent_requests).
A 402 has `type`, `code`, `decline_code` and the PaymentIntent (docs.stripe.com/api/errors).

    with running() as stripe:
        stripe.trouble.append(Trouble("confirm", "charge, then hang up"))
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs

KEY = "sk_test_a-key-of-nobody"
DECLINES = {
    "4000000000000002": ("card_declined", "generic_decline"),
    "4000000000009995": ("card_declined", "insufficient_funds"),
    "4000000000000069": ("expired_card", None),
    "4000000000000127": ("incorrect_cvc", None),
    "pm_card_visa_chargeDeclined": ("card_declined", "generic_decline"),
    "pm_card_visa_chargeDeclinedInsufficientFunds": ("card_declined", "insufficient_funds"),
    "pm_card_chargeDeclinedExpiredCard": ("expired_card", None),
    "pm_card_chargeDeclinedIncorrectCvc": ("incorrect_cvc", None),
}
Kind = Literal["500", "429", "401", "hang up", "charge, then hang up", "charge, then 500", "processing"]


@dataclass
class Trouble:
    """What goes wrong with the next call of a kind, or with all of them."""

    call: Literal["create", "confirm", "retrieve", "cancel"]
    kind: Kind
    times: int = 1


@dataclass
class Answer:
    status: int
    body: dict[str, Any]


@dataclass
class Stripe:
    """What the server knows, and what is to go wrong."""

    address: str = ""
    intents: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: dict[str, tuple[dict[str, list[str]], Answer]] = field(default_factory=dict)
    trouble: list[Trouble] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Each call, with its idempotency key."""
    charges: list[str] = field(default_factory=list)
    """Each time that money moved."""
    bodies: list[str] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def received(self) -> int:
        return sum(self.intents[charge]["amount"] for charge in self.charges)

    def _trouble(self, call: str) -> Kind | None:
        for each in self.trouble:
            if each.call == call and each.times:
                each.times -= 1
                return each.kind
        return None

    def answer(self, call: str, intent: str, form: dict[str, list[str]], key: str) -> Answer | None:
        """Answer a call; None hangs up."""
        self.calls.append((call, key))
        if key and key in self.kept:
            before, answer = self.kept[key]
            if before != form:
                return error(400, "idempotency_error", "idempotency_key_in_use")
            return answer
        trouble = self._trouble(call)
        if trouble in ("hang up", None, "processing") or str(trouble).startswith("charge"):
            answer = None if trouble == "hang up" else self._do(call, intent, form, trouble)
        else:
            status = int(str(trouble))
            answer = error(status, "api_error" if status >= 500 else "invalid_request_error", "")
        if answer is not None and key and answer.status not in (401, 429):
            self.kept[key] = (form, answer)
        return None if trouble == "charge, then hang up" else answer

    def _do(self, call: str, intent: str, form: dict[str, list[str]], trouble: Kind | None) -> Answer:
        if call == "create":
            return self._create(form)
        found = self.intents.get(intent)
        if found is None:
            return error(404, "invalid_request_error", "resource_missing")
        if call == "confirm":
            answer = self._confirm(found, form, processing=trouble == "processing")
            return error(500, "api_error", "") if trouble == "charge, then 500" else answer
        if call == "cancel":
            if found["status"] in ("succeeded", "canceled", "processing"):
                return error(400, "invalid_request_error", "payment_intent_unexpected_state")
            found["status"] = "canceled"
        return Answer(200, dict(found))

    def _create(self, form: dict[str, list[str]]) -> Answer:
        name = f"pi_{len(self.intents) + 1:024d}"
        self.intents[name] = {
            "id": name,
            "object": "payment_intent",
            "amount": int(form["amount"][0]),
            "currency": form["currency"][0],
            "status": "requires_payment_method",
            "last_payment_error": None,
            "metadata": {"veilmart": form["metadata[veilmart]"][0]},
        }
        return Answer(200, dict(self.intents[name]))

    def _confirm(self, found: dict[str, Any], form: dict[str, list[str]], *, processing: bool) -> Answer:
        if found["status"] != "requires_payment_method":
            return error(400, "invalid_request_error", "payment_intent_unexpected_state")
        card = form.get("payment_method") or form["payment_method_data[card][number]"]
        if card[0] in DECLINES:
            code, decline = DECLINES[card[0]]
            failure = {"type": "card_error", "code": code, "decline_code": decline, "message": "declined"}
            found["last_payment_error"] = failure
            return Answer(402, {"error": {**failure, "payment_intent": dict(found)}})
        found["status"] = "processing" if processing else "succeeded"
        self.charges.append(found["id"])
        return Answer(200, dict(found))


def error(status: int, kind: str, code: str) -> Answer:
    return Answer(status, {"error": {"type": kind, "code": code or None, "message": "as documented"}})


CALLS: dict[tuple[str, str], str] = {
    ("POST", ""): "create",
    ("POST", "confirm"): "confirm",
    ("POST", "cancel"): "cancel",
    ("GET", ""): "retrieve",
}


def handler(stripe: Stripe) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            # /v1/payment_intents[/<id>[/confirm]]
            parts = [*self.path.partition("?")[0].split("/"), "", ""]
            call = CALLS[self.command, parts[4]]
            key = self.headers.get("Idempotency-Key") or ""
            with stripe.lock:
                stripe.bodies.append(body)
                if self.headers["Authorization"] != f"Bearer {KEY}":
                    answer: Answer | None = error(401, "invalid_request_error", "")
                else:
                    answer = stripe.answer(call, parts[3], parse_qs(body), key)
            if answer is None:
                self.close_connection = True
                return
            data = json.dumps(answer.body).encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that gave up is no error here."""


@contextmanager
def running() -> Iterator[Stripe]:
    stripe = Stripe()
    server = Server(("127.0.0.1", 0), handler(stripe))
    stripe.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield stripe
    finally:
        server.shutdown()
        with suppress(OSError):
            server.server_close()
        thread.join()
