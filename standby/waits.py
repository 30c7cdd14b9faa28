"""The kinds of wait: what an agent stops for. A new kind is one class here.

Each says what row it is in the ledger, and reads its typed answer back from JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Generic, Literal, TypedDict, TypeVar, overload

import jsonschema
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from standby.errors import AgentFailed, AnswerRefused, NotStorable, UsageError
from standby.ledger.waits import WaitRow
from standby.moments import BusinessDays, Moment, next_of, point_in_time, zone
from standby.policy import Policy
from standby.states import BY_SIGNAL, NOBODY_ANSWERS, RunState, WaitKind
from standby.values import Codec, problems_of

A = TypeVar("A")
F = TypeVar("F")


class _Nothing:
    def __repr__(self) -> str:
        return "no default"


NOTHING = _Nothing()


class Decision(BaseModel):
    """The form of an approval that names none."""

    approved: bool = Field(title="Approve")
    comment: str = Field(default="", title="Comment")


@dataclass(frozen=True)
class Wait(Generic[A]):
    """Base of all kinds. ``name`` is the default name in the wait's key."""

    reason: str
    name: str
    codec: Codec[A]
    party: str | None = None
    deadline: Moment | None = None
    default: Any = NOTHING

    def row(self, key: str) -> WaitRow:
        """The wait as it opens now; ``deadline`` becomes a point in time. Raises ``UsageError`` for text with NUL."""
        has_default = not isinstance(self.default, _Nothing)
        row = WaitRow(
            key=key,
            kind=self.kind(),
            reason=self.reason,
            party=self.party,
            deadline=self.due(),
            has_default=has_default,
            default_answer=self.codec.encode(self.default, f"the default of wait {key!r}")[0] if has_default else None,
            answer_type=type_name(self.codec.annotation),
            answer_schema=json.dumps(self.codec.schema()),
            **self.more(),
        )
        for field in ("reason", "party", "topic", "correlation", "evidence"):
            if "\0" in (getattr(row, field) or ""):
                raise UsageError(f"The {field} of wait {key!r} has a NUL character, which cannot be stored. Remove it.")
        return row

    def kind(self) -> WaitKind:
        raise NotImplementedError

    def due(self) -> datetime | None:
        """The deadline of a wait that opens now."""
        return None if self.deadline is None else point_in_time(self.deadline)

    def more(self) -> dict[str, Any]:
        """Columns that only this kind has."""
        return {}

    def check(self, answer: A) -> None:
        """Raise ``ValueError`` if an answer of the right type will not do all the same."""

    def taken(self, answer: Any) -> A:
        """What ``wait_for`` returns for the answer as it was stored. May raise, the same on every replay."""
        value: A = answer
        return value

    def read(self, text: str) -> tuple[str, A]:
        """An answer's JSON text as it is stored, and its value. Raises ``ValueError`` or ``TypeError``."""
        answer = self.codec.decode(text)
        self.check(answer)
        return self.codec.encode(answer, f"the answer to {self.reason!r}")


class Approval(Wait[F]):
    """Ask a person. The answer is ``form``: a Pydantic model, by default ``Decision(approved, comment)``.

    ``show``: what they decide on: Markdown, or a value that is shown as a table (its ``_repr_markdown_`` if it has
    one). ``party``: who is asked, a role or a name. ``policy``: how many have to approve, who may, reminders and
    escalation; by default one answer of anybody decides. ``within`` (a timedelta or ``BusinessDays`` from now) or
    ``by`` (an aware datetime): the deadline; then ``otherwise`` is the answer, or without one ``WaitTimedOut`` is
    raised. The default is no deadline. ``check``: called with an answer of the right type; if it raises
    ``ValueError``, the answer is refused and the run waits on. Raises ``UsageError`` for a policy that counts people
    and a form without a field ``approved``.
    """

    @overload
    def __init__(
        self: Approval[Decision],
        reason: str,
        *,
        show: Any = None,
        party: str | None = None,
        policy: Policy | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
        otherwise: Decision | _Nothing = NOTHING,
        check: Callable[[Decision], None] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: Approval[F],
        reason: str,
        *,
        form: type[F],
        show: Any = None,
        party: str | None = None,
        policy: Policy | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
        otherwise: F | _Nothing = NOTHING,
        check: Callable[[F], None] | None = None,
    ) -> None: ...
    def __init__(
        self,
        reason: str,
        *,
        form: Any = Decision,
        show: Any = None,
        party: str | None = None,
        policy: Policy | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
        otherwise: Any = NOTHING,
        check: Callable[[Any], None] | None = None,
    ) -> None:
        super().__init__(reason, "approval", Codec(lambda: form), party, _one_deadline(within, by), otherwise)
        if policy is not None and policy.names_people and not _has_switch(self.codec):
            raise UsageError(
                f"The form of the approval {reason!r} has no field 'approved' that is true or false, by which a policy "
                "counts who approves. Add it, or leave policy= out."
            )
        object.__setattr__(self, "policy", policy)
        object.__setattr__(self, "show", show)
        object.__setattr__(self, "further_check", check)

    show: Any
    policy: Policy | None
    further_check: Callable[[F], None] | None

    def check(self, answer: F) -> None:
        if self.further_check is not None:
            self.further_check(answer)

    def kind(self) -> WaitKind:
        return WaitKind.APPROVAL

    def more(self) -> dict[str, Any]:
        policy = self.policy.model_dump_json() if self.policy is not None else None
        return {"evidence": evidence_of(self.show), "policy": policy}


class Signal(Wait[A]):
    """Wait for a message from outside with this ``topic`` and ``key`` (the correlation: an order number, say).

    ``of``: the type of its payload, any JSON by default. The deadline as for ``Approval``.
    """

    @overload
    def __init__(
        self: Signal[Any],
        topic: str,
        *,
        key: str | None = None,
        reason: str | None = None,
        party: str | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
        otherwise: Any = NOTHING,
    ) -> None: ...
    @overload
    def __init__(
        self,
        topic: str,
        *,
        of: type[A],
        key: str | None = None,
        reason: str | None = None,
        party: str | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
        otherwise: A | _Nothing = NOTHING,
    ) -> None: ...
    def __init__(
        self,
        topic: str,
        *,
        key: str | None = None,
        of: Any = Any,
        reason: str | None = None,
        party: str | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
        otherwise: Any = NOTHING,
    ) -> None:
        reason = reason or f"{topic} for {key}" if key is not None else reason or topic
        super().__init__(reason, topic, Codec(lambda: of), party, _one_deadline(within, by), otherwise)
        object.__setattr__(self, "correlation", key)

    correlation: str | None

    def kind(self) -> WaitKind:
        return WaitKind.SIGNAL

    def more(self) -> dict[str, Any]:
        return {"topic": self.name, "correlation": self.correlation}


class Condition(Signal[A]):
    """Wait until something is so: a signal says it, or a poll of the source of truth finds it.

    ``topic``, ``key`` and ``of`` as for ``Signal``. ``poll``: a function in a module that the keeper can import, async
    or not; called with ``args`` (JSON), it returns what the signal would have said, or None for not yet. It is asked
    ``every`` (5 s) after the wait opens, and each time after twice as long, up to ``at_most`` (5 min). Whichever is
    first answers the wait. The deadline as for ``Approval``. Raises ``UsageError`` for a function that cannot be
    imported and for arguments that are not JSON.
    """

    @overload
    def __init__(
        self: Condition[Any],
        topic: str,
        *,
        poll: Callable[..., Any],
        args: dict[str, Any] | None = None,
        every: timedelta = ...,
        at_most: timedelta = ...,
        key: str | None = None,
        reason: str | None = None,
        party: str | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
        otherwise: Any = NOTHING,
    ) -> None: ...
    @overload
    def __init__(
        self,
        topic: str,
        *,
        poll: Callable[..., Any],
        of: type[A],
        args: dict[str, Any] | None = None,
        every: timedelta = ...,
        at_most: timedelta = ...,
        key: str | None = None,
        reason: str | None = None,
        party: str | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
        otherwise: A | _Nothing = NOTHING,
    ) -> None: ...
    def __init__(
        self,
        topic: str,
        *,
        poll: Callable[..., Any],
        args: dict[str, Any] | None = None,
        every: timedelta = timedelta(seconds=5),
        at_most: timedelta = timedelta(minutes=5),
        key: str | None = None,
        of: Any = Any,
        reason: str | None = None,
        party: str | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
        otherwise: Any = NOTHING,
    ) -> None:
        super().__init__(topic, key=key, of=of, reason=reason, party=party, within=within, by=by, otherwise=otherwise)
        if not timedelta(0) < every <= at_most:
            raise UsageError("A condition is polled every= so often, above zero and not above at_most=.")
        try:
            json.dumps(args or {}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"The args= of condition {topic!r} are kept as JSON, which they are not: {error}"
            ) from error
        spec = Poll(
            function=_importable(poll), args=args or {}, every=every.total_seconds(), at_most=at_most.total_seconds()
        )
        object.__setattr__(self, "poll", spec)

    poll: Poll

    def kind(self) -> WaitKind:
        return WaitKind.CONDITION

    def more(self) -> dict[str, Any]:
        return {**super().more(), "poll": json.dumps(self.poll)}


class Poll(TypedDict):
    """How the keeper asks: ``function`` is ``module:name``, the times are seconds."""

    function: str
    args: dict[str, Any]
    every: float
    at_most: float


class Finished(BaseModel):
    """How a run that was waited for ended. ``state``: ``completed``, ``failed`` or ``cancelled``."""

    run_id: str
    state: str
    result: Any = None
    error: str | None = None


class Child(TypedDict):
    """An agent that is started: ``deployment`` is ``flow/name``, ``if_closed`` is ``cancel`` or ``leave``."""

    deployment: str
    parameters: dict[str, Any]
    if_closed: str


class AgentFinished(Wait[A]):
    """Start another agent and wait for its end; the answer is its result.

    ``deployment``: ``flow-name/deployment-name``. ``parameters``: JSON. ``of``: the type of its result, any JSON by
    default. It is started once for this wait, whatever dies in between. ``if_closed``: what becomes of it if this run
    stops waiting for it (it is cancelled, fails, or something else of ``wait_any`` came first): ``"cancel"`` (default)
    or ``"leave"``. If it fails or is cancelled, the wait raises ``AgentFailed``. The deadline as for ``Approval``.
    Raises ``UsageError`` for parameters that are not JSON.
    """

    @overload
    def __init__(
        self: AgentFinished[Any],
        deployment: str,
        parameters: dict[str, Any] | None = None,
        *,
        if_closed: Literal["cancel", "leave"] = "cancel",
        reason: str | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        deployment: str,
        parameters: dict[str, Any] | None = None,
        *,
        of: type[A],
        if_closed: Literal["cancel", "leave"] = "cancel",
        reason: str | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
    ) -> None: ...
    def __init__(
        self,
        deployment: str,
        parameters: dict[str, Any] | None = None,
        *,
        of: Any = Any,
        if_closed: Literal["cancel", "leave"] = "cancel",
        reason: str | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
    ) -> None:
        flow, slash, name = deployment.partition("/")
        if not (flow and slash and name):
            raise UsageError(f"{deployment!r} is no deployment: give flow-name/deployment-name.")
        if if_closed not in ("cancel", "leave"):
            raise UsageError(f"if_closed= is 'cancel' or 'leave', not {if_closed!r}.")
        try:
            plain = json.loads(json.dumps(parameters or {}, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"The parameters for {deployment} are sent as JSON, which they are not: {error}"
            ) from error
        codec: Codec[Any] = Codec(lambda: Finished)
        super().__init__(reason or f"{deployment} to end", flow, codec, None, _one_deadline(within, by))
        object.__setattr__(self, "child", Child(deployment=deployment, parameters=plain, if_closed=if_closed))
        object.__setattr__(self, "result", Codec(lambda: of))

    child: Child
    result: Codec[A]

    def kind(self) -> WaitKind:
        return WaitKind.AGENT

    def more(self) -> dict[str, Any]:
        return {"child": json.dumps(self.child)}

    def taken(self, answer: Any) -> A:
        if answer.state != RunState.COMPLETED:
            raise AgentFailed(answer.run_id, answer.state, answer.error)
        return self.result.decode(json.dumps(answer.result))


class Timer(Wait[None]):
    """Wait for a time.

    ``until``: a timedelta or ``BusinessDays`` from now, an aware datetime, a date (its beginning in ``tz``), or a cron
    expression of five fields (the next time in ``tz`` that it names, seen from when the wait opens). ``tz``: an IANA
    name ("UTC").
    """

    def __init__(self, until: Moment | str, *, tz: str = "UTC") -> None:
        zone(tz)
        in_tz = f" ({tz})" if isinstance(until, str) or type(until) is date else ""
        text = until.isoformat(timespec="seconds") if isinstance(until, datetime) else str(until)
        text = f"{until.days} working days" if isinstance(until, BusinessDays) else text
        deadline = None if isinstance(until, str) else until
        super().__init__(f"until {text}{in_tz}", "timer", Codec(lambda: None), None, deadline, None)
        if isinstance(until, str):
            next_of(until, tz=tz)  # one that is wrong is refused where it is written
        object.__setattr__(self, "tz", tz)
        object.__setattr__(self, "cron", until if isinstance(until, str) else None)

    tz: str
    cron: str | None

    def due(self) -> datetime | None:
        if self.cron is not None:
            return next_of(self.cron, tz=self.tz)
        assert self.deadline is not None
        return point_in_time(self.deadline, tz=self.tz)

    def kind(self) -> WaitKind:
        return WaitKind.TIMER


def _one_deadline(within: timedelta | BusinessDays | None, by: datetime | None) -> Moment | None:
    if within is not None and by is not None:
        raise UsageError("A wait has one deadline: give within= or by=, not both.")
    return within if within is not None else by


def _has_switch(codec: Codec[Any]) -> bool:
    return bool(codec.schema().get("properties", {}).get("approved", {}).get("type") == "boolean")


def evidence_of(show: Any) -> str | None:
    """What is shown to the person who decides, as Markdown."""
    if show is None or isinstance(show, str):
        return show
    if callable(markdown := getattr(show, "_repr_markdown_", None)):
        return str(markdown())
    plain = TypeAdapter(Any).dump_python(show, mode="json")
    if not isinstance(plain, dict):
        return f"```json\n{json.dumps(plain, indent=2)}\n```"
    lines = ["| | |", "|---|---|"]
    for name, value in plain.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        lines.append(f"| {as_text(name)} | {as_text(shown)} |")
    return "\n".join(lines)


_MARKUP = re.compile(r"([\\`*_\[\]<>|~&$#@]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
"""What Markdown, or a renderer that makes links by itself, would act on."""


def as_text(text: str) -> str:
    """Text as one line of Markdown that shows it as it is: whoever wrote an invoice must not format the question."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def type_name(annotation: Any) -> str | None:
    """``module:Name`` of a class that other processes can import; None for anything else."""
    if not isinstance(annotation, type) or annotation.__module__ in ("__main__", "builtins"):
        return None
    if "<locals>" in annotation.__qualname__:
        return None
    return f"{annotation.__module__}:{annotation.__qualname__}"


def checked_answer(wait: Any, text: str) -> str:
    """The JSON text of an answer as it will be stored, if it fits the wait; else ``AnswerRefused`` names the fields.

    ``wait`` is the wait's row. Checked with the Pydantic type where it can be imported here, else with the JSON
    Schema the wait was opened with; the run checks with the type in any case.
    """
    try:
        plain = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise AnswerRefused(wait.key, [("answer", f"it is not JSON: {error}")]) from error
    schema = json.loads(wait.answer_schema or "{}")
    closed = "properties" in schema and not schema.get("additionalProperties")
    if wait.kind == WaitKind.APPROVAL and isinstance(plain, dict) and closed:
        # A misspelt field would be dropped in silence, and its default taken.
        unknown = [(str(name), "the form has no such field") for name in plain if name not in schema["properties"]]
        if unknown:
            raise AnswerRefused(wait.key, unknown)
    found = imported(wait.answer_type)
    codec: Codec[Any] = Codec(lambda: Any if found is None else found)
    try:
        stored, _ = codec.encode(codec.decode(text), "the answer")
    except ValidationError as error:
        raise AnswerRefused(wait.key, problems_of(error)) from error
    except NotStorable as error:
        raise AnswerRefused(wait.key, [("answer", str(error.__cause__))]) from error
    except Exception as error:  # a validator of the form that fails on what it was given
        raise AnswerRefused(wait.key, [("answer", f"{type(error).__name__}: {error}")]) from error
    if found is not None:
        return stored
    try:
        errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(plain), key=str)
    except Exception:
        return stored  # a schema that only Pydantic understands: the run checks with the type
    if errors:
        raise AnswerRefused(wait.key, [(".".join(map(str, e.absolute_path)) or "answer", e.message) for e in errors])
    return stored


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _importable(function: Callable[..., Any]) -> str:
    """``module:name`` of a function that another process can import. Raises ``UsageError``."""
    name = f"{getattr(function, '__module__', None)}:{getattr(function, '__qualname__', None)}"
    if name.startswith("__main__:") or imported(name) is not function:
        raise UsageError(
            f"{name} cannot be imported, and the keeper, another process, has to: poll= takes a function of a module."
        )
    return name


def imported(name: str | None) -> Any | None:
    if name is None:
        return None
    module, _, qualname = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except Exception:  # a module may do anything when it is imported where it was not meant to be
        return None
    return found


def command_for(wait: Any) -> str | None:
    """What to type to answer the wait; None for one that nobody answers."""
    standby, short = program(), wait.id[:8]
    if wait.kind in NOBODY_ANSWERS:
        return None
    if wait.kind in BY_SIGNAL:
        # Both may have come from outside, and the line is there to be pasted into a shell.
        key = f" --key {shlex.quote(wait.correlation)}" if wait.correlation is not None else ""
        return f"{standby} signal {shlex.quote(wait.topic)}{key} 'JSON'"
    fields = json.loads(wait.answer_schema or "{}").get("properties", {})
    return f"{standby} approve {short}" if "approved" in fields else f"{standby} answer {short} 'JSON'"


def program() -> str:
    """How to call ``standby`` from the working folder: its name if the shell finds it, else its path."""
    return "standby" if shutil.which("standby") else os.path.relpath(Path(sys.executable).parent / "standby")
