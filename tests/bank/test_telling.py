"""Bootstrap tells the bank where to report, and what it signs with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from blocks.payment_provider import PaymentProvider
from deployments import bank_reports
from deployments.bank_reports import bank_source, tell_bank
from standby.gateway.webhook_source import WebhookSource
from tests.bank.process import running_bank
from tests.bank.receiver import ANOTHER, SECRET, receiver
from tests.bank.test_bank import delivered, pay
from tests.support.forks import Forks

GATEWAY = "http://127.0.0.1:4280"


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the blocks that the server would have: the provider, and the bank as a source."""

    def have(provider: PaymentProvider, *secrets: str) -> None:
        async def provider_block(*_: object) -> PaymentProvider:
            return provider

        async def source_block(_: str) -> WebhookSource:
            return WebhookSource(scheme="standard", secrets=[SecretStr(secret) for secret in secrets])

        monkeypatch.setattr(bank_reports, "load_or_default", provider_block)
        monkeypatch.setattr(WebhookSource, "aload", source_block)

    return have


async def test_during_a_rotation_the_bank_signs_with_the_first_secret(
    blocks: Any, forks: Forks, tmp_path: Path
) -> None:
    """The second, which it signed with before, can then be taken out."""
    async with receiver() as heard, running_bank(tmp_path, forks=forks, settle_after=0) as bank:
        gateway = heard.url.removesuffix("/settled")
        for number, secrets in enumerate([[SECRET], [ANOTHER, SECRET]], start=1):
            blocks(PaymentProvider(base_url=f"{bank.url}/"), *secrets)
            assert await tell_bank(f"{gateway}/") == f"The bank reports to {gateway}/webhooks/bank."
            heard.secret = secrets[0]
            await pay(bank, f"k{number}")
            assert len(await delivered(bank, number)) == number


async def test_a_bank_that_cannot_be_told_is_said_without_the_secret(
    blocks: Any, forks: Forks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_reports, "CONNECTS", 0)
    blocks(PaymentProvider(base_url="http://127.0.0.1:1"), SECRET)
    said = await tell_bank(GATEWAY) or ""
    assert said.startswith("The bank at http://127.0.0.1:1 was not told where to report (")
    async with running_bank(tmp_path, forks=forks) as bank:
        for provider, secret, why in (
            (
                PaymentProvider(base_url=bank.url, api_key=SecretStr("wrong")),
                SECRET,
                "was not told where to report (status 4",
            ),
            (PaymentProvider(base_url=bank.url), "whsec_x", "secrets: number 1 is not base64"),
        ):
            blocks(provider, secret)
            refused = await tell_bank(GATEWAY) or ""
            assert why in refused
            assert secret not in refused


async def test_a_block_that_cannot_be_used_stops_no_bootstrap(blocks: Any) -> None:
    blocks(PaymentProvider(base_url="http://127.0.0.1:1"), SECRET, "")
    said = await tell_bank(GATEWAY) or ""
    assert "webhook-source/bank cannot be used: secrets" in said
    assert SECRET not in said


async def test_a_provider_elsewhere_is_told_nothing(blocks: Any) -> None:
    blocks(PaymentProvider(base_url="https://bank.invalid"), SECRET)
    assert await tell_bank(GATEWAY) is None


def test_every_installation_has_a_secret_of_its_own() -> None:
    one, other = bank_source(), bank_source()
    assert one.secrets[0].get_secret_value() != other.secrets[0].get_secret_value()
    assert one.secrets[0].get_secret_value() not in repr(one) + one.model_dump_json()
