"""Gateways: a charge is made once at most, whatever is lost, and its end can be found out without a card."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog
from stripe_stand_in import KEY, Stripe, Trouble, running

from broker_node.gateways import configuration, sandbox
from broker_node.gateways.sandbox import SandboxGateway
from broker_node.gateways.stripe import StripeGateway
from broker_node.payment_gateway import Charged, Declined, GatewayError, Unknown
from common import money, payment_cards
from common.config import Limits
from common.errors import UsageError
from common.messages import PaymentCard

VISA = "4242424242424242"
NAME = "Augusta King"


def card(number: str = VISA) -> PaymentCard:
    code = "1234" if number.startswith("37") else "987"
    return payment_cards.card(number, "12/34", code, NAME)


# --- sandbox -------------------------------------------------------------------------------------------


class Time:
    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def box(tmp_path: Path, time: Time) -> SandboxGateway:
    return SandboxGateway(tmp_path, time)


@pytest.mark.parametrize("number", sorted(sandbox.CHARGED))
def test_the_sandbox_charges_test_cards(box: SandboxGateway, number: str) -> None:
    assert payment_cards.check(card(number), 1_800_000_000_000)
    charge = box.open("key", 500, "EUR")
    assert box.pay(charge, card(number)) == Charged()
    assert box.settle(charge) == Charged()
    assert box.received() == 500


@pytest.mark.parametrize(
    ("number", "code"), [*sandbox.DECLINED.items(), ("4000000000000010", "card_declined")]
)
def test_the_sandbox_declines_others(box: SandboxGateway, number: str, code: str) -> None:
    assert payment_cards.luhn(number)
    charge = box.open("key", 500, "EUR")
    assert box.pay(charge, card(number)) == box.settle(charge) == Declined(code)  # type: ignore[arg-type]
    assert box.received() == 0


def test_the_sandbox_may_be_late_and_is_never_early(box: SandboxGateway, time: Time) -> None:
    charge = box.open("key", 500, "EUR")
    assert box.pay(charge, card(sandbox.CHARGED_LATE)) == Unknown()
    assert box.settle(charge) == Unknown()
    time.now += sandbox.LATE_MS
    assert box.settle(charge) == Charged()


def test_a_sandbox_charge_without_a_card_is_void_for_ever(box: SandboxGateway) -> None:
    charge = box.open("key", 500, "EUR")
    assert box.pay(charge, card(sandbox.NEVER_ANSWERED)) == Unknown()
    assert box.settle(charge) == Declined("not_charged")
    assert box.pay(charge, card()) == Declined("not_charged")
    assert box.received() == 0


def test_the_sandbox_charges_once_and_remembers(tmp_path: Path, box: SandboxGateway, time: Time) -> None:
    charge = box.open("key", 500, "EUR")
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda _: box.pay(charge, card()), range(8)))
    assert outcomes == [Charged()] * 8
    again = SandboxGateway(tmp_path, time)
    assert again.open("key", 500, "EUR") == charge
    assert again.settle(charge) == Charged()
    assert again.received() == 500
    with pytest.raises(GatewayError):
        again.open("key", 501, "EUR")
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"4242" not in kept
    assert NAME.encode() not in kept


# --- Stripe --------------------------------------------------------------------------------------------


@pytest.fixture
def stripe() -> Iterator[Stripe]:
    with running() as stand_in:
        yield stand_in


@pytest.fixture
def gateway(stripe: Stripe, monkeypatch: pytest.MonkeyPatch) -> StripeGateway:
    monkeypatch.setattr("stripe._http_client.HTTPClient.INITIAL_DELAY", 0.01)
    return StripeGateway(KEY, 2.0, stripe.address)


def test_a_card_is_charged_at_stripe(stripe: Stripe, gateway: StripeGateway) -> None:
    charge = gateway.open("key", 500, "EUR")
    assert stripe.intents[charge]["currency"] == "eur"
    assert gateway.open("key", 500, "EUR") == charge
    assert gateway.pay(charge, card()) == gateway.settle(charge) == Charged()
    assert stripe.charges == [charge]
    assert [key for call, key in stripe.calls if call != "retrieve"] == [
        "open-key",
        "open-key",
        f"pay-{charge}",
    ]


def test_the_same_key_with_another_amount_is_refused_by_stripe(gateway: StripeGateway) -> None:
    gateway.open("key", 500, "EUR")
    with pytest.raises(GatewayError, match="IdempotencyError"):
        gateway.open("key", 501, "EUR")


@pytest.mark.parametrize("key", [KEY, "live"])
@pytest.mark.parametrize(("number", "code"), sandbox.DECLINED.items())
def test_stripe_declines(stripe: Stripe, gateway: StripeGateway, key: str, number: str, code: str) -> None:
    gateway._test_mode = key == KEY
    charge = gateway.open("key", 500, "EUR")
    assert gateway.pay(charge, card(number)) == Declined(code)  # type: ignore[arg-type]
    # A test number travels only where Stripe takes no test method for it.
    assert any(number in body for body in stripe.bodies) == (key != KEY)
    assert gateway.settle(charge) == Declined(code)  # type: ignore[arg-type]
    assert stripe.charges == []


def test_a_real_card_travels_to_stripe_as_documented(stripe: Stripe, gateway: StripeGateway) -> None:
    gateway.pay(gateway.open("key", 500, "EUR"), card("4000000000000010"))
    confirmed = stripe.bodies[-1]
    for part in ("[card][number]=4000000000000010", "[card][exp_year]=2034", "[card][cvc]=987"):
        assert f"payment_method_data{part}" in confirmed
    assert "4000000000000010" not in stripe.bodies[0]


@pytest.mark.parametrize("kind", ["hang up", "charge, then hang up", "429"])
def test_a_lost_answer_is_asked_for_again_under_the_same_key(
    stripe: Stripe, gateway: StripeGateway, kind: str
) -> None:
    charge = gateway.open("key", 500, "EUR")
    stripe.trouble.append(Trouble("confirm", kind))  # type: ignore[arg-type]
    outcome = gateway.pay(charge, card())
    assert outcome == (Unknown() if kind == "429" else Charged())
    assert stripe.charges == ([] if kind == "429" else [charge])


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("hang up", Declined("not_charged")),
        ("500", Declined("not_charged")),
        ("charge, then hang up", Charged()),
        ("charge, then 500", Charged()),
    ],
)
def test_what_is_not_known_is_settled_later(
    stripe: Stripe, gateway: StripeGateway, kind: str, end: object
) -> None:
    charge = gateway.open("key", 500, "EUR")
    stripe.trouble.append(Trouble("confirm", kind, times=9))  # type: ignore[arg-type]
    if kind == "charge, then hang up":
        # Nor does the repetition get through.
        answer = stripe.answer

        def deaf(call: str, *rest: object) -> object:
            found = answer(call, *rest)  # type: ignore[arg-type]
            return None if call == "confirm" else found

        stripe.answer = deaf  # type: ignore[method-assign, assignment]
    assert gateway.pay(charge, card()) == Unknown()
    stripe.trouble.append(Trouble("retrieve", "hang up", times=2))
    assert gateway.settle(charge) == Unknown()
    assert gateway.settle(charge) == end
    assert gateway.settle(charge) == end
    stripe.trouble.clear()
    stripe.kept.clear()
    # A payment that was on its way all the time comes too late.
    assert gateway.pay(charge, card()) == Unknown()
    assert stripe.charges == ([charge] if end == Charged() else [])


def test_a_payment_in_progress_is_waited_for(stripe: Stripe, gateway: StripeGateway) -> None:
    charge = gateway.open("key", 500, "EUR")
    stripe.trouble.append(Trouble("confirm", "processing"))
    assert gateway.pay(charge, card()) == gateway.settle(charge) == Unknown()
    stripe.intents[charge]["status"] = "succeeded"
    assert gateway.settle(charge) == Charged()


def test_a_payment_that_is_faster_than_its_cancellation(stripe: Stripe, gateway: StripeGateway) -> None:
    charge = gateway.open("key", 500, "EUR")
    answer = stripe.answer

    def faster(call: str, *rest: object) -> object:
        if call == "cancel":
            stripe.intents[charge]["status"] = "succeeded"
        return answer(call, *rest)  # type: ignore[arg-type]

    stripe.answer = faster  # type: ignore[method-assign, assignment]
    assert gateway.settle(charge) == Unknown()
    assert gateway.settle(charge) == Charged()


def test_yen_have_no_decimals_at_stripe_either(stripe: Stripe, gateway: StripeGateway) -> None:
    charge = gateway.open("key", 500, "JPY")
    assert (stripe.intents[charge]["amount"], stripe.intents[charge]["currency"]) == (500, "jpy")


OTHERS = ["ISK", "UGX", "MGA", "UYI", "KWD", "BHD", "CLF"]
"""Counted otherwise at Stripe, with digits that have to be 0, or not at all."""


@pytest.mark.parametrize("currency", OTHERS)
def test_a_currency_that_stripe_counts_otherwise_is_not_charged(
    stripe: Stripe, gateway: StripeGateway, currency: str
) -> None:
    with pytest.raises(GatewayError):
        gateway.open("key", 500, currency)
    assert stripe.calls == []


def test_stripe_is_no_choice_for_a_currency_that_it_counts_otherwise() -> None:
    refused = set()
    for currency in money.EXPONENTS:
        configuration.check_currency("sandbox", currency)
        try:
            configuration.check_currency("stripe", currency)
        except UsageError:
            refused.add(currency)
    assert refused == {*OTHERS, "IQD", "JOD", "LYD", "OMR", "TND", "UYW"}


@pytest.mark.parametrize("kind", ["500", "429", "401", "hang up"])
def test_a_charge_that_cannot_be_opened(stripe: Stripe, gateway: StripeGateway, kind: str) -> None:
    stripe.trouble.append(Trouble("create", kind, times=9))  # type: ignore[arg-type]
    with pytest.raises(GatewayError) as raised:
        gateway.open("key", 500, "EUR")
    assert raised.value.__cause__ is None


def test_a_stripe_that_is_silent_is_waited_for_no_longer_than_allowed(stripe: Stripe) -> None:
    gateway = StripeGateway(KEY, 0.1, stripe.address)
    charge = gateway.open("key", 500, "EUR")
    with stripe.lock:
        assert gateway.pay(charge, card()) == Unknown()


def test_nothing_of_a_card_is_logged(
    stripe: Stripe,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stripe._util.STRIPE_LOG", "debug")
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as ours:
        gateway = StripeGateway(KEY, 2.0, stripe.address)
        gateway._test_mode = False
        charge = gateway.open("key", 500, "EUR")
        stripe.trouble.append(Trouble("confirm", "500", times=9))
        assert gateway.pay(charge, card("4000000000000010")) == Unknown()
    out, err = capfd.readouterr()
    said = out + err + caplog.text + json.dumps(ours)
    assert ours
    assert any("4000000000000010" in body for body in stripe.bodies)
    assert not [secret for secret in ("4000000000000010", "987", NAME, "Augusta") if secret in said]


# --- which one -----------------------------------------------------------------------------------------


def test_a_home_without_a_choice_has_no_gateway(tmp_path: Path) -> None:
    assert configuration.make(tmp_path, Limits(), lambda: 0) is None


def test_the_gateway_that_was_chosen(tmp_path: Path) -> None:
    configuration.save(tmp_path, "sandbox")
    assert isinstance(configuration.make(tmp_path, Limits(), lambda: 0), SandboxGateway)
    configuration.save(tmp_path, "stripe", "sk_test_of-nobody")
    assert (tmp_path / "stripe.key").stat().st_mode & 0o777 == 0o600
    assert isinstance(configuration.make(tmp_path, Limits(), lambda: 0), StripeGateway)
    configuration.save(tmp_path, "none")
    assert configuration.make(tmp_path, Limits(), lambda: 0) is None


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    configuration.save(tmp_path, "stripe", "sk_test_of-nobody")
    (tmp_path / "stripe.key").chmod(0o644)
    with pytest.raises(UsageError, match="read by others"):
        configuration.make(tmp_path, Limits(), lambda: 0)


@pytest.mark.parametrize("key", ["", "pk_test_public", "sk_test_\n", None])
def test_what_is_no_key_is_refused(tmp_path: Path, key: str | None) -> None:
    with pytest.raises(UsageError):
        configuration.save(tmp_path, "stripe", key)


@pytest.mark.parametrize(
    "text", ['kind = "paypal"', "kind = 1", "=", 'kind = "stripe"\napi_base = "http://x"']
)
def test_settings_that_cannot_be_right(tmp_path: Path, text: str) -> None:
    (tmp_path / "gateway.toml").write_text(text)
    with pytest.raises(UsageError):
        configuration.load(tmp_path)


def test_stripe_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stripe", None)
    with pytest.raises(UsageError, match="not installed") as raised:
        StripeGateway(KEY, 1.0)
    assert "veilmart[stripe]" in raised.value.hint
