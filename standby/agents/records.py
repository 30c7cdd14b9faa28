"""What the journal keeps of an agent that thinks: its beginning, its turns, its tool calls, its end."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    TypeAdapter,
)
from pydantic_ai.messages import (
    BaseToolReturnPart,
    ModelMessage,
    ToolReturnContent,
    UserContent,
    is_multi_modal_content,
)
from pydantic_core import CoreSchema, core_schema

from standby.agents.budgets import Spent
from standby.agents.lookalikes import marked, unmarked
from standby.steps import step, tool_as_step

_BYTES = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
"""As pydantic-ai writes them, such as a picture that a tool returns."""


_anything: TypeAdapter[Any] = TypeAdapter(Any, config=_BYTES)


def _as_data(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float) or is_multi_modal_content(value):
        return value
    return _anything.dump_python(value, mode="json")


def _marked(content: Any) -> Any:
    return marked(content, _as_data)


def _each_return(messages: list[ModelMessage], change: Callable[[Any], Any]) -> list[ModelMessage]:
    """The messages with other contents of what tools returned; the ones given are left as they are."""
    return [_with_returns(message, change) for message in messages]


def _with_returns(message: ModelMessage, change: Callable[[Any], Any]) -> ModelMessage:
    if not any(map(_holds_data, message.parts)):
        return message
    message = copy(message)
    parts: list[Any] = [_with_return(part, change) if _holds_data(part) else part for part in message.parts]
    message.parts = parts
    return message


def _holds_data(part: Any) -> bool:
    return isinstance(part, BaseToolReturnPart) and not isinstance(part.content, str)


def _with_return(part: Any, change: Callable[[Any], Any]) -> Any:
    part = copy(part)
    part.content = change(part.content)
    return part


@dataclass(frozen=True)
class _Kept:
    """A field of the journal in which data stays data. It is written as ``write`` has it, and ``read`` undoes that. In
    the process itself it is what it is: nothing is made of it."""

    write: Callable[[Any], Any]
    read: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        as_it_is = handler(source)

        def written(value: Any, write_: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
            return write_(self.write(value) if info.mode_is_json() else value)

        return core_schema.json_or_python_schema(
            json_schema=core_schema.no_info_after_validator_function(self.read, as_it_is),
            python_schema=core_schema.any_schema(),
            serialization=core_schema.wrap_serializer_function_ser_schema(written, info_arg=True, schema=as_it_is),
        )


_Messages = Annotated[
    list[ModelMessage], _Kept(lambda of: _each_return(of, _marked), lambda of: _each_return(of, unmarked))
]
_Content = Annotated[ToolReturnContent, _Kept(_marked, unmarked)]


class Beginning(BaseModel):
    """``trace``: the W3C trace context that its spans join."""

    at: AwareDatetime
    trace: dict[str, str] = {}


class Turn(BaseModel):
    """One model request. ``messages``: what came new, the response last; all there are where
    ``whole`` says so."""

    model_config = _BYTES

    messages: _Messages
    whole: bool = False
    parts: dict[str, str] | None = None  # digests of what the agent is made of, where they are others than before
    changed: list[str] = []  # which of them changed since the last attempt, or during a wait
    tokens: int = 0
    money: Decimal | None = None  # US dollars, as far as prices are known; None in old journals: it is not
    unpriced: int = 0  # answers, rejected ones among them, whose price is not known
    unmeasured: int = 0  # requests of which the provider did not say how many tokens they took
    seconds: float = 0
    tool_retries: dict[str, int] = {}  # how often in a row each tool had been retried before it
    output_retries: int = 0  # how often the output had been

    @property
    def spent(self) -> Spent:
        return self.spent_on([self])

    @staticmethod
    def spent_on(turns: Sequence[Turn]) -> Spent:
        """All that these have cost together."""
        return Spent(
            requests=len(turns),
            tokens=sum(turn.tokens for turn in turns),
            money=sum((turn.money for turn in turns if turn.money), Decimal(0)),
            unpriced=sum(turn.unpriced + (turn.money is None) for turn in turns),
            unmeasured=sum(turn.unmeasured for turn in turns),
            running=timedelta(seconds=sum(turn.seconds for turn in turns)),
        )


class Result(StrEnum):
    """What a tool call came to."""

    RETURNED = "returned"
    RETRY = "retry"  # the model is asked to try again
    FAILED = "failed"  # the model is told so
    DENIED = "denied"  # the scope or a person said no
    DEFERRED = "deferred"  # somebody outside delivers the result
    UNAPPROVED = "unapproved"  # the tool itself asks for an approval
    PARKED = "parked"  # the run waits in it, or it was cut off: what it has cost so far
    CUT_OFF = "cut off"  # a hook cut it off while it acted, and the agent goes on without what it would come to
    UNANSWERED = "unanswered"  # no call: a model request of which no answer was accepted


NO_CALL = frozenset({Result.DENIED, Result.UNAPPROVED, Result.PARKED, Result.UNANSWERED})


class Counted(BaseModel):
    """Of what a tool call came to, what it has cost: itself, and what it added to the usage that it was given. Or what
    a model request has cost that was not answered.

    ``inner``: the calls of other tools in it.
    """

    result: Result
    seconds: float = 0
    inner: int = 0
    requests: int = 0
    tokens: int = 0
    money: Decimal = Decimal(0)
    unpriced: int = 0
    unmeasured: int = 0

    @property
    def counts(self) -> bool:
        """Whether it was a call: one that was denied, has yet to be approved, or is under way is none."""
        return self.result not in NO_CALL

    @property
    def spent(self) -> Spent:
        return self.spent_on([self])

    @property
    def alone(self) -> Spent:
        """What it has cost without the calls in it."""
        return self.model_copy(update={"inner": 0}).spent

    @staticmethod
    def spent_on(calls: Sequence[Counted]) -> Spent:
        """All that these have cost together."""
        return Spent(
            requests=sum(call.requests for call in calls),
            tool_calls=sum(call.inner + call.counts for call in calls),
            tokens=sum(call.tokens for call in calls),
            money=sum((call.money for call in calls if call.money), Decimal(0)),
            unpriced=sum(call.unpriced for call in calls),
            unmeasured=sum(call.unmeasured for call in calls),
            running=timedelta(seconds=sum(call.seconds for call in calls)),
        )


class Outcome(Counted):
    """What one tool call came to. ``message`` is for the model; ``metadata`` is never sent to it."""

    model_config = _BYTES

    value: _Content = None
    content: str | list[UserContent] | None = None
    metadata: Any = None
    tools: list[str] | None = None
    message: str = ""
    question: bool = False


class Ending(BaseModel):
    """How it ended: with an output, or by ``stopped`` (the limit that was reached) and ``why``.

    ``output``: the number of the call of its last answer that is the output, if one is.
    """

    at: AwareDatetime
    turn: int
    stopped: str | None = None
    why: str = ""
    output: int | None = None


@contextmanager
def _uncollected() -> Iterator[None]:
    """What is made in the block, in which nothing is awaited, stays: the collector of garbage would go through it again
    and again while there is more and more of it."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


_turns: TypeAdapter[list[Turn]] = TypeAdapter(list[Turn])
_counted: TypeAdapter[list[Counted]] = TypeAdapter(list[Counted])


def turns_of(texts: Sequence[str]) -> list[Turn]:
    """Turns from what the journal has of them, all with one look."""
    with _uncollected():
        return _turns.validate_json(f"[{','.join(texts)}]")


def counted_of(texts: Sequence[str]) -> list[Counted]:
    """What tool calls have cost, from what the journal has of them."""
    return _counted.validate_json(f"[{','.join(texts)}]")


@step(visible=False)
async def began(work: Callable[[], Awaitable[Beginning]]) -> Beginning:
    """Write down what ``work`` returns, once; so do the others here."""
    return await work()


@step(visible=False)
async def ended(work: Callable[[], Awaitable[Ending]]) -> Ending:
    return await work()


async def _turn(work: Callable[[], Awaitable[Turn]]) -> Turn:
    return await work()


async def _call(work: Callable[[], Awaitable[Outcome]]) -> Outcome:
    token = tool_as_step.set(True)
    try:
        return await work()
    finally:
        tool_as_step.reset(token)


MODEL = {visible: step(name="model", visible=visible)(_turn) for visible in (False, True)}
"""A model request as a step, by whether Prefect shows it."""

TOOL = {visible: step(name="tool", visible=visible)(_call) for visible in (False, True)}
"""A tool call as a step, by whether Prefect shows it."""
