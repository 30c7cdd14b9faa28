"""``/answer/{token}``: the page behind an approval link, for one person, about one opening of one wait.

GET changes nothing, so a mail scanner or a preview that follows the link approves nothing. POST answers, by the same
transaction as every other door. There is no cookie and no session that another site could make a browser use: the token
is the credential, and who has it needs no forgery, so the form carries nothing against one.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from standby import clock, doors, view
from standby.connect import Place
from standby.errors import AnswerRefused, LedgerUnavailable, NotAllowed
from standby.gateway import pages
from standby.gateway.forms import SWITCH, answer_of, fields_of
from standby.ledger import Ledger
from standby.links import Link, read, secret_of
from standby.policy import Policy
from standby.states import Door, Verdict, WaitState

FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 1000


class Over(Exception):
    """There is nothing to answer here (any more): the status, and the page that says why, of which question."""

    def __init__(self, status: int, title: str, text: str, question: str | None = None) -> None:
        super().__init__(title)
        self.status, self.title, self.text, self.question = status, title, text, question

    def page(self) -> HTMLResponse:
        return pages.page("said.html", self.status, title=self.title, text=self.text, question=self.question)


class Asked(NamedTuple):
    """What a link that was signed here is about."""

    link: Link
    wait: Any
    run: Any
    so_far: list[str]  # whose decisions count already


async def asked(request: Request, token: str) -> Asked:
    """Raises ``Over`` for a token that was not signed here."""
    ledger: Ledger = request.app.state.ledger
    link = read(token, await secret_of(ledger))
    wait = None if link is None else await ledger.waits.get(link.wait_id)
    if link is None or wait is None:
        text = "It may have been cut when it was copied. Open it once more from the message it came in."
        raise Over(404, "This link is not valid", text)
    decisions = await ledger.waits.decisions_of(wait.run_id) if wait.policy is not None else []
    return Asked(link, wait, await ledger.runs.get(wait.run_id), view.so_far(wait, decisions))


async def check_open(ledger: Ledger, link: Link) -> Any:
    """The wait's row as it is now. Raises ``Over`` unless this link can still answer it."""
    wait = await ledger.waits.get(link.wait_id)
    assert wait is not None
    if link.expires_at <= clock.utcnow():
        text = f"It was good until {view.moment(link.expires_at)}. If the question is still open, ask for another one."
        raise Over(410, "This link has expired", text, wait.reason)
    if (mine := await ledger.waits.decided_by(link.wait_id, link.opening, link.person)) is not None:
        by = "" if mine.actor == link.person else f" by {mine.actor}, in the place of {link.person},"
        text = f"The answer of {link.person} was taken{by} on {view.moment(mine.decided_at)}: {_said(mine.answer)}."
        title = "This link has been used" if mine.door == Door.LINK else "You have answered already"
        raise Over(410, title, text, wait.reason)
    if wait.opening != link.opening:
        text = await _why_anew(ledger, link, wait)
        raise Over(410, "This link is about an earlier question", text, wait.reason)
    if wait.state != WaitState.OPEN:
        raise Over(409, "This is decided", await _who_was_first(ledger, wait), wait.reason)
    return wait


async def _why_anew(ledger: Ledger, link: Link, wait: Any) -> str:
    """Why what the link was about is asked anew, and where to answer."""
    theirs = [
        one
        for one in await ledger.waits.decisions_of(wait.run_id)
        if (one.wait_id, one.opening, one.actor, one.verdict) == (wait.id, link.opening, link.person, Verdict.REFUSED)
    ]
    if refused := next((one for one in theirs if one.answer is not None), None):
        why = f"The answer of {link.person}, {_said(refused.answer)}, was not accepted: {_ended(refused.note)} "
        why += "The question was asked anew."
    else:
        last = f": the last answer was refused: {_ended(wait.refused)}" if wait.refused else "."
        why = f"The question was asked anew since this link was made{last}"
    if wait.state != WaitState.OPEN:
        return f"{why} {await _who_was_first(ledger, wait)}"
    return f"{why} It is answered by a newer link: look for a newer message, or ask for one."


def _ended(text: str | None) -> str:
    """As a sentence."""
    return f"{(text or 'no reason is known').rstrip('.')}."


async def _who_was_first(ledger: Ledger, wait: Any) -> str:
    winner = await ledger.waits.winner(wait)
    if winner is None:
        return "The question is closed: its agent's run ended, or something else it waited for came first."
    if winner.door == Door.DEADLINE:
        return f"Nobody answered before the deadline, on {view.moment(winner.decided_at)}."
    what = f": {_said(winner.answer)}" if winner.wait_id == wait.id else ", with something else it waited for"
    return f"{winner.actor or winner.door} was first, on {view.moment(winner.decided_at)}{what}."


def _said(answer: str | None) -> str:
    plain = json.loads(answer or "null")
    if isinstance(plain, dict) and isinstance(plain.get(SWITCH), bool):
        return "approved" if plain[SWITCH] else "rejected"
    return json.dumps(plain, ensure_ascii=False)[:200]


async def ask(
    asked: Asked,
    *,
    status: int = 200,
    typed: Mapping[str, str] | None = None,
    problems: list[tuple[str, str]] | None = None,
    refused: str | None = None,
) -> HTMLResponse:
    """The page with the question and its form; ``typed`` is kept in it, ``problems`` stand beside their fields."""
    wait = asked.wait
    fields = fields_of(wait.answer_schema)
    beside: dict[str, list[str]] = {}
    for place, reason in problems or []:
        name = next((one.name for one in fields if f"{place}.".startswith(f"{one.name}.")), "")
        beside.setdefault(name, []).append(reason if place == name else f"{place}: {reason}")
    return pages.page(
        "ask.html",
        status,
        wait=wait,
        run=asked.run,
        person=asked.link.person,
        expires_at=asked.link.expires_at,
        evidence=await pages.rendered(wait.evidence) if wait.evidence else None,
        policy=Policy.model_validate_json(wait.policy).said if wait.policy is not None else "",
        so_far=asked.so_far,
        default=_said(wait.default_answer) if wait.has_default else None,
        fields=[one for one in fields if one.kind != "switch"],
        switch=next((one for one in fields if one.kind == "switch"), None),
        typed={one.name: (typed or {}).get(one.name, one.typed) for one in fields},
        problems=beside,
        refused=refused,
    )


async def answer(request: Request, token: str) -> HTMLResponse:
    """Take the answer that the form has. The ledger decides whether it counts, and the audit has whoever tried."""
    ledger: Ledger = request.app.state.ledger
    place: Place = request.app.state.place
    seen = await asked(request, token)
    given = await _given(request)
    link, wait = seen.link, seen.wait
    text, problems = answer_of(wait.answer_schema, given)
    if link.expires_at <= clock.utcnow():
        said = None if problems else text
        await ledger.waits.note_not_allowed(wait.id, Door.LINK, link.person, "the link has expired", said)
        await check_open(ledger, link)
    refused = None
    if not problems:
        try:
            made = await doors.answer(
                ledger, wait, text, door=Door.LINK, actor=link.person, api_url=place.api_url, opening=link.opening
            )
        except AnswerRefused as error:
            problems = error.problems
        except NotAllowed as error:
            refused = str(error)
        else:
            if made.won or made.counted:
                return _thanks(link, made)
            refused = await _who_was_first(ledger, made.wait)
    still_open = seen._replace(wait=await check_open(ledger, link))
    return await ask(still_open, status=403 if refused else 422, typed=given, problems=problems, refused=refused)


def _thanks(link: Link, made: doors.Answered) -> HTMLResponse:
    text = f"It is recorded as the answer of {link.person}. "
    if made.won:
        text += "The agent goes on with it; should it not accept it, the question is asked anew. "
        text += "You can close this page."
    else:
        text += f"The agent waits on: {Policy.model_validate_json(made.wait.policy).said}."
    return pages.page("said.html", title="Your answer counts", text=text, question=made.wait.reason)


async def _given(request: Request) -> dict[str, str]:
    """What the form sent, by field; of a field sent twice, as a ticked box is, the last."""
    sent_as = request.headers.get("content-type", FORM).partition(";")[0].strip().lower()
    if sent_as != FORM:
        raise Over(415, "This is not the form", f"The page's form is sent as {FORM}.")
    try:
        body = (await request.body()).decode()
        return dict(parse_qsl(body, keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict"))
    except ValueError:
        raise Over(400, "This form cannot be read", "It is damaged. Open the link and fill it in once more.") from None


async def shown(page: Awaitable[HTMLResponse]) -> HTMLResponse:
    """The page, or the one that says why there is none."""
    try:
        return await page
    except Over as over:
        return over.page()
    except LedgerUnavailable:
        page_503 = Over(
            503,
            "Try again in a moment",
            "The ledger cannot be reached. Whether your answer was taken is not known: sent again, it counts once.",
        ).page()
        page_503.headers["Retry-After"] = "2"
        return page_503


def _pages(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"description": "A page that says why.", "content": {"text/html": {"schema": {"type": "string"}}}}
        for status in statuses
    }


links = APIRouter(tags=["links"], default_response_class=HTMLResponse)


@links.head("/answer/{token}", include_in_schema=False)
@links.get("/answer/{token}", responses=_pages(404, 408, 409, 410, 503))
async def see(request: Request, token: str) -> HTMLResponse:
    """The question, the evidence and the form, for who holds the link. Changes nothing."""

    async def page() -> HTMLResponse:
        seen = await asked(request, token)
        return await ask(seen._replace(wait=await check_open(request.app.state.ledger, seen.link)))

    return await shown(page())


@links.post(
    "/answer/{token}",
    responses=_pages(400, 403, 404, 408, 409, 410, 413, 415, 422, 503),
    openapi_extra={"requestBody": {"content": {FORM: {"schema": {"type": "object"}}}}},
)
async def send(request: Request, token: str) -> HTMLResponse:
    """Answer with the page's form, once. 422 shows the form again with what does not fit; the run then waits on."""
    return await shown(answer(request, token))
