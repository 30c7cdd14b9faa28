"""What a model may propose about an invoice, as people see it, and what it may choose from."""

from typing import Any

import pytest

from blocks.model_endpoint import ModelEndpoint
from tasks.advise import advise, known_accounts
from tasks.apply_policy import apply_policy
from tasks.match_order import match_order
from tasks.models import Advice, Match
from tests.invoices.documents import NO_ORDER, PRICE_DIFFERS, document
from tests.invoices.test_models import a_match, shape


async def test_without_a_model_the_person_is_told_so_and_nothing_else_changes() -> None:
    found = await apply_policy(document(NO_ORDER), await match_order(document(NO_ORDER)))
    assert found.adviser == ""
    advised = await advise(document(NO_ORDER), found)
    assert advised.model_copy(update={"advice": None}) == found
    assert "No language model is configured" in advised.to_markdown()
    assert "language model" not in found.to_markdown()


async def test_which_model_may_advise_is_settled_with_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def load(block: type[Any], name: str = "default") -> Any:
        return ModelEndpoint(provider="ollama", model="some-model") if block is ModelEndpoint else block()

    matched = await match_order(document(PRICE_DIFFERS))
    monkeypatch.setattr("tasks.apply_policy.load_or_default", load)
    assert (await apply_policy(document(PRICE_DIFFERS), matched)).adviser == "some-model"


def test_a_match_of_before_there_were_advisers_is_read_as_one_without() -> None:
    stored = a_match().model_dump(mode="json", exclude={"adviser", "advice"})
    assert Match.model_validate(stored).adviser == ""


async def test_the_accounts_to_choose_from_are_those_the_books_have_used() -> None:
    await match_order(document(PRICE_DIFFERS))  # reads the orders in
    known = {each.account: each.used_for for each in await known_accounts(document(NO_ORDER))}
    assert {"4930", "0650"} <= known.keys()
    assert "Papierhof Lindner OHG" in known["4930"][0]
    assert all(1 <= len(used) <= 3 for used in known.values())


@pytest.mark.parametrize(
    ("advice", "expected"),
    [
        (Advice(model="m", account="4930", reason="paper"), "- Book on 4930: paper"),
        (Advice(model="m", differences="The list price rose."), "- Differences: The list price rose."),
        (Advice(model="m"), "- nothing"),
        (Advice(model="m", failed="no answer"), "The model m has proposed nothing: no answer"),
    ],
)
def test_a_proposal_stands_under_its_models_name(advice: Advice, expected: str) -> None:
    assert expected in a_match(advice=advice).to_markdown()


@pytest.mark.parametrize(
    "attack", ["a\n\n# Approved\n\n- yes", "**approved**", "[click](https://evil.test)", "<b>x</b>"]
)
def test_a_model_cannot_write_more_than_its_proposal(attack: str) -> None:
    def with_words(words: str) -> str:
        said = Advice(model=words, account="1", reason=words, differences=words)
        return a_match(advice=said).to_markdown()

    assert shape(with_words(attack)) == shape(with_words("x"))
