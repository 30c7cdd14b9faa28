"""Whatever is sent to the gateway, by whomever: it answers as its OpenAPI document says, and never with a 5xx."""

from __future__ import annotations

import asyncio
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import strategies
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from standby import Approval
from standby.gateway.webhook_source import WebhookSource
from standby.ledger import Ledger
from standby.links import address_of, link_for
from standby.states import Role
from tests.gateway.conftest import Gate, opened
from tests.gateway.test_links import Payment
from tests.ledger.acts import parked, signal

EXAMPLES = 30
"""Requests to each operation, of those that fit its description and of those that do not: 420 in all."""

OPERATIONS = {
    "GET /health", "POST /signals/{topic}", "GET /waits", "GET /waits/{wait_id}", "POST /waits/{wait_id}/answer",
    "POST /webhooks/{source}", "GET /answer/{token}", "POST /answer/{token}",
}  # fmt: skip

TAKE_ANYTHING = {"GET /health", "GET /answer/{token}"}
"""Operations that nothing fails to fit."""

load_all_checks()
AS_DOCUMENTED = CHECKS.get_by_names(
    ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
)


class Known:
    """What there is to find: names that fit each path parameter, and keys of every role."""

    def __init__(self, names: dict[str, list[str]], keys: list[dict[str, str]]) -> None:
        self.names, self.keys = names, keys

    @classmethod
    async def made(cls, gate: Gate) -> Known:
        waits = []
        for run in ("one", "two"):
            rows = [Approval("Pay?", form=Payment).row("approval"), signal()]
            waits += (await parked(gate.ledger, rows, run=run)).waits
        links = [await address_of(gate.ledger, await link_for(gate.ledger, wait, "ada"), "") for wait in waits[::2]]
        gate.sources.blocks["bank"] = WebhookSource(scheme="hmac", secrets=["s"])
        names = {
            "topic": ["paid"],
            "wait_id": [wait.id for wait in waits],
            "source": ["bank"],
            "token": [link.removeprefix("/answer/") for link in links],
        }
        return cls(names, [{}, {"Authorization": "Bearer sb_wrong"}, *[await gate.as_(role) for role in Role]])


@pytest.mark.parametrize("mode", GenerationMode)
def test_no_request_breaks_it_or_gets_an_answer_that_is_not_documented(sqlite_url: str, mode: GenerationMode) -> None:
    with asyncio.Runner() as runner:
        ledger = runner.run(Ledger.connect(sqlite_url))
        stack = opened(ledger)
        gate = runner.run(stack.__aenter__())
        try:
            known = runner.run(Known.made(gate))
            document = runner.run(gate.client.get("/openapi.json")).json()
            tried = set()
            for found in schemathesis.openapi.from_dict(document).get_all_operations():
                operation = found.ok()
                tried.add(operation.label)
                if mode is GenerationMode.POSITIVE or operation.label not in TAKE_ANYTHING:
                    _try(runner, gate, known, operation, mode)
            assert tried == OPERATIONS
        finally:
            runner.run(stack.__aexit__(None, None, None))
            runner.run(ledger.close())


def _try(runner: asyncio.Runner, gate: Gate, known: Known, operation: Any, mode: GenerationMode) -> None:
    """Requests to one operation; of each path parameter now and then one that there is, and any key or none."""

    @hypothesis.seed(1)
    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    @hypothesis.given(strategies.data())
    def one(data: Any) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        for name in case.path_parameters or {}:
            if data.draw(strategies.booleans()):
                case.path_parameters[name] = data.draw(strategies.sampled_from(known.names[name]))
        sent = case.as_transport_kwargs(base_url="http://gateway")
        sent["headers"] = dict(sent.get("headers") or {}) | data.draw(strategies.sampled_from(known.keys))
        made = requests.Request(**{name: value for name, value in sent.items() if value is not None}).prepare()
        content = made.body.encode() if isinstance(made.body, str) else made.body or b""
        response = runner.run(
            gate.client.request(str(made.method), str(made.url), content=content, headers=dict(made.headers))
        )
        case.validate_response(response, checks=AS_DOCUMENTED)

    one()


def test_whatever_is_typed_into_a_form_is_an_answer_or_is_shown_again_as_text(sqlite_url: str) -> None:
    """Rows 31, 32 and 62: also what is no character, no number, or far too much of it."""
    typed = strategies.one_of(
        strategies.text(max_size=40),
        strategies.sampled_from(['"4930"', "true", "1e999", "-0", "NaN", "<script>", "[[1]]"]),
        strategies.sampled_from("1[").map(lambda character: character * 5000),
    )
    forms = strategies.fixed_dictionaries({}, optional=dict.fromkeys([*Payment.model_fields, "other"], typed))
    with asyncio.Runner() as runner:
        ledger = runner.run(Ledger.connect(sqlite_url))
        stack = opened(ledger)
        gate = runner.run(stack.__aenter__())
        [link] = runner.run(Known.made(gate)).names["token"][:1]

        @hypothesis.seed(1)
        @hypothesis.settings(max_examples=150, deadline=None, database=None, phases=[hypothesis.Phase.generate])
        @hypothesis.given(forms)
        def one(form: dict[str, str]) -> None:
            response = runner.run(gate.client.post(f"/answer/{link}", data=form))
            assert response.status_code in (200, 410, 422), response.text
            assert "<script" not in response.text

        try:
            one()
        finally:
            runner.run(stack.__aexit__(None, None, None))
            runner.run(ledger.close())
