"""On which port the sandbox bank listens, and what is said where it cannot."""

from __future__ import annotations

import socket
from typing import Any
from uuid import UUID

import httpx
import pytest

from blocks import loading
from blocks.payment_provider import PaymentProvider
from deployments.sandbox_bank import __main__ as bank
from deployments.sandbox_bank.place import difference, port_of


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the block that the server would have, or what asking for it raises."""
    monkeypatch.delenv("PAYMENT_PROVIDER_URL", raising=False)

    def have(address: str | Exception) -> None:
        async def loaded(*_: object) -> PaymentProvider:
            if isinstance(address, Exception):
                raise address
            made = PaymentProvider(base_url=address)
            made._block_document_id = UUID(int=1)
            return made

        monkeypatch.setattr(loading, "load_or_default", loaded)

    return have


@pytest.mark.parametrize(
    ("address", "port"),
    [("http://127.0.0.1:4312", 4312), ("http://localhost:4313/", 4313), ("https://bank.example:4314", 4242)],
)
def test_it_listens_where_the_block_says_that_agents_pay(block: Any, address: str, port: int) -> None:
    block(address)
    assert port_of(None).number == port


def test_what_it_is_told_goes_before_the_block(block: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    block("http://127.0.0.1:4312")
    monkeypatch.setenv("PAYMENT_PROVIDER_URL", "http://127.0.0.1:4400")
    assert port_of(None).number == 4400
    assert port_of(0).number == 0


def test_without_a_server_and_a_variable_it_listens_where_agents_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAYMENT_PROVIDER_URL", raising=False)
    assert port_of(None).number == 4242


def test_a_server_that_does_not_tell_is_no_reason_to_listen_elsewhere(
    block: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    block(httpx.ConnectError("All connection attempts failed"))
    with pytest.raises(SystemExit):
        bank.main([])
    said = capsys.readouterr().err
    assert "payment-provider/default" in said
    assert "All connection attempts failed. Correct it or PREFECT_API_URL, or give --port." in said


def test_a_busy_port_is_said_with_the_remedy_for_where_it_was_told(
    block: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        block(f"http://127.0.0.1:{port}")
        for arguments, variable, remedy in (
            ([], None, "set PAYMENT_PROVIDER_URL=http://127.0.0.1:4343, and once that is up, the same in the block "
                       "payment-provider/default in the Prefect UI."),
            ([], f"http://127.0.0.1:{port}", "set PAYMENT_PROVIDER_URL to another address of this machine."),
            (["--port", str(port)], None, "--port."),
        ):  # fmt: skip
            if variable is not None:
                monkeypatch.setenv("PAYMENT_PROVIDER_URL", variable)
            with pytest.raises(SystemExit):
                bank.main(arguments)
            assert f"Port {port} is in use; stop what listens there or choose another: {remedy}\n" == \
                capsys.readouterr().err  # fmt: skip


def test_that_the_variable_says_another_address_than_the_block_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider = PaymentProvider(base_url="http://127.0.0.1:4312")
    for same in ("", "http://127.0.0.1:4312", "http://127.0.0.1:4312/"):
        monkeypatch.setenv("PAYMENT_PROVIDER_URL", same)
        assert difference(provider) is None
    monkeypatch.setenv("PAYMENT_PROVIDER_URL", "http://127.0.0.1:4343")
    said = difference(provider) or ""
    assert "Agents pay at http://127.0.0.1:4312" in said
    assert "PAYMENT_PROVIDER_URL says http://127.0.0.1:4343" in said
