"""Values as agents have them, and whether each can be stored: only what is surely changed on the way cannot."""

import re
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, IntFlag, StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from anthropic.types import Message
from mcp.types import CallToolResult, TextContent
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, JsonValue, PrivateAttr, RootModel, SecretStr, computed_field
from pydantic_ai.messages import (
    BinaryContent,
    ImageUrl,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.usage import RunUsage
from typing_extensions import TypedDict

from standby.errors import NotStorable
from standby.values import Codec

T = TypeVar("T")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # `schema` is a name that models have, too

    class Names(BaseModel):
        type: str = "a"
        ref: str | int = "b"
        fields: list[str] = ["c"]
        schema: dict[str, Any] = {"type": {"ref": []}}  # type: ignore[assignment]
        default: Any = None
        items: list[Any] = [{"type": "object"}]
        choices: tuple[int, ...] = (1,)


class Kind(StrEnum):
    ONE = "one"


class Level(IntEnum):
    LOW = 1


class Colour(Enum):
    RED = "r"


class Way(Flag):
    IN = 1
    OUT = 2


class Right(IntFlag):
    READ = 1
    WRITE = 2


class Base(BaseModel):
    a: int = 1


class Created(Base):
    b: int = 2


class Deleted(Base):
    c: int = 3


class Batch(BaseModel):
    last: Base
    events: list[Created | Deleted] = []


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    name: str = "tom"


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str = "rex"


class Yes(BaseModel):
    why: str = ""


class No(BaseModel):
    why: str = ""


class Zoo(BaseModel):
    star: Annotated[Cat | Dog, Field(discriminator="kind")]
    others: dict[str, list[Cat | Dog]] = {}


class Page(BaseModel, Generic[T]):
    items: list[T]
    following: "Page[T] | None" = None


class Named(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    user_id: int = Field(alias="userId")


class Square(BaseModel):
    model_config = ConfigDict(extra="allow")
    side: float = 2.5

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> float:
        return self.side**2


class Kept(BaseModel):
    a: int = 1
    _id: UUID = PrivateAttr(default_factory=uuid4)
    _at: datetime = PrivateAttr(default_factory=datetime.now)


class Tags(RootModel[dict[str, set[int]]]): ...


class Login(BaseModel):
    password: SecretStr = SecretStr("hunter2")


class Size(NamedTuple):
    width: int
    height: int = 1


class Options(TypedDict, total=False):
    type: str
    at: datetime


@dataclass
class Job:
    type: str
    ref: Decimal = Decimal("1.10")
    parts: list[Base] = field(default_factory=list)
    seen: int = field(default=0, compare=False)
    _cache: dict[str, int] | None = None

    def __post_init__(self) -> None:
        self._cache = self._cache or {}


@dataclass
class Ids:
    """A set whose elements stand in another order than in one made of them."""

    all: set[int]


def shrunk() -> Ids:
    left = set(range(0, 8000, 8))
    left -= set(range(64, 8000, 8))
    return Ids(left)


@dataclass
class Done(Generic[T]):
    value: T


@dataclass
class Failed:
    value: str


def completion() -> ChatCompletion:
    message = {"role": "assistant", "content": "hi", "not_known": 1}
    made = ChatCompletion.model_validate({
        "id": "x", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
    })  # fmt: skip
    made._request_id = "req_1"  # as its client does
    return made


def response() -> Response:
    text = {"type": "output_text", "text": "hi", "annotations": []}
    return Response.model_validate({
        "id": "r", "object": "response", "created_at": 1, "model": "m", "parallel_tool_calls": True, "tools": [],
        "tool_choice": "auto",
        "output": [{"type": "message", "id": "i", "role": "assistant", "status": "completed", "content": [text]}],
    })  # fmt: skip


def message() -> Message:
    made = Message.model_validate({
        "id": "x", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "hi"}, {"type": "tool_use", "id": "i", "name": "n", "input": {"type": 1}}],
        "usage": {"input_tokens": 1, "output_tokens": 1},
    })  # fmt: skip
    made._request_id = "req_1"
    return made


def messages() -> list[ModelMessage]:
    picture = BinaryContent(b"\xff", media_type="image/png")
    return [
        ModelRequest(parts=[UserPromptPart(["look", picture, ImageUrl("http://a.example/b.png")])]),
        ModelResponse(parts=[TextPart("t"), ToolCallPart("n", {"type": {"a": 1}}, "id")]),
        ModelRequest(parts=[ToolReturnPart("n", {"a": [1, None]}, "id")]),
    ]


BERLIN = ZoneInfo("Europe/Berlin")
TEXT = TextContent(type="text", text="a")

ACCEPTED: list[tuple[Any, Callable[[], Any]]] = [
    (Names, Names),
    (Names | Base | None, Names),
    (dict[str, list[Names | Base]], lambda: {"type": [Names(), Base()]}),
    (Any, lambda: {"names": Names(), "right": Right.READ, "way": Way.IN | Way.OUT, "kind": Kind.ONE}),
    (dict[str, Any], lambda: {"type": {"type": {"ref": Way.IN}}, "at": date(2026, 1, 1), "size": Size(1)}),
    (JsonValue, lambda: {"type": [1, 2.5, None, {"ref": True}]}),
    (Kind, lambda: Kind.ONE),
    (Level | None, lambda: Level.LOW),
    (list[Colour | int], lambda: [Colour.RED, 1]),
    (Way, lambda: Way.IN | Way.OUT),
    (Right, lambda: Right.READ | Right.WRITE),
    (dict[Kind, Right], lambda: {Kind.ONE: Right.READ}),
    (Batch, lambda: Batch(last=Created(), events=[Created(), Deleted()])),
    (list[Base], lambda: [Base(), Created(), Deleted()]),
    (Zoo, lambda: Zoo(star=Dog(), others={"a": [Cat(), Dog()]})),
    (Page[Zoo], lambda: Page[Zoo](items=[Zoo(star=Cat())], following=Page[Zoo](items=[]))),
    (Page[Any], lambda: Page[Base](items=[Base()])),
    (Named, lambda: Named(userId=1)),
    (Square, lambda: Square(side=1.5)),
    (Square | None, lambda: Square(colour="red")),  # type: ignore[call-arg]
    (Kept, Kept),
    (list[Kept | Cat], lambda: [Kept(), Cat()]),
    (Tags, lambda: Tags({"a": {1, 2}})),
    (Size, lambda: Size(1)),
    (tuple[int, ...], lambda: Size(1)),
    (Options, lambda: {"type": "a", "at": datetime.now(BERLIN)}),
    (list[Options | Base], lambda: [{"type": "a"}, Base()]),
    (Job, lambda: Job("a", parts=[Base()], seen=3)),
    (Job, lambda: Job("a", parts=[Created()], _cache={"a": 1})),
    (Done[int] | Failed, lambda: Done(1)),
    (Done[int] | Failed, lambda: Failed("no")),
    (datetime, lambda: datetime.now(UTC)),
    (datetime | None, lambda: datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN)),
    (date | datetime, lambda: datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=-3)))),
    (date | datetime, lambda: date(2026, 1, 1)),
    (time, lambda: time(1, 2)),
    (timedelta, lambda: timedelta(days=3, microseconds=1)),
    (Decimal | int, lambda: Decimal("1.10")),
    (UUID, uuid4),
    (Path, lambda: Path("a/b")),
    (IPv4Address, lambda: IPv4Address("127.0.0.1")),
    (HttpUrl, lambda: HttpUrl("http://a.example")),
    (bytes, lambda: b"\xff"),
    (re.Pattern, lambda: re.compile("a")),
    (set[str], lambda: {"a", "b"}),
    (set[str | date], lambda: {date(2026, 1, 1) + timedelta(days) for days in range(3000)}),
    (Ids, shrunk),
    (frozenset[tuple[int, str]], lambda: frozenset({(1, "a")})),
    (deque[int], lambda: deque([1, 2])),
    (Counter[str], lambda: Counter("aab")),
    (OrderedDict[str, Base], lambda: OrderedDict(b=Base(), a=Base())),
    (defaultdict[str, list[int]], lambda: defaultdict(list, a=[1])),
    (dict[tuple[int, int] | int, str] | None, lambda: {1: "a"}),
    (ChatCompletion, completion),
    (Response, response),
    (Message, message),
    (list[Message | ChatCompletion], lambda: [message(), completion()]),
    (Any, lambda: {"answer": response(), "other": message()}),
    (TextContent, lambda: TEXT),
    (CallToolResult, lambda: CallToolResult(content=[TEXT])),
    (BinaryContent, lambda: BinaryContent(b"\x89PNG", media_type="image/png")),
    (ImageUrl | str, lambda: ImageUrl("http://a.example/b.png")),
    (list[ModelMessage], messages),
    (RunUsage, lambda: RunUsage(requests=2, details={"a": 1})),
]

REFUSED: list[tuple[Any, Callable[[], Any]]] = [
    (Yes | No, No),
    (dict[str, list[Yes | No]], lambda: {"type": [Yes(), No()]}),
    (Yes | Failed | Done[str], lambda: Done("a")),
    (UUID | str, lambda: str(UUID(int=7))),
    (Login, Login),
    (Any, lambda: [Login()]),
    (Any, lambda: {1: "a", "1": "b"}),
    (str, lambda: "\ud83d"),
    (float, lambda: float("nan")),
    (datetime, lambda: datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=1)))),
    (re.Pattern, lambda: re.compile("a", re.IGNORECASE)),
    (deque[int], lambda: deque([1], maxlen=2)),
]


def idea(case: Any) -> str:
    return re.sub(r"\W+", "-", str(getattr(case, "__name__", case)))[:40]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("annotation", "make"), ACCEPTED, ids=idea)
def test_an_ordinary_value_is_accepted(annotation: Any, make: Callable[[], Any]) -> None:
    """And so is what is read back, which the run goes on with."""
    codec: Codec[Any] = Codec(lambda: annotation)
    text, back = codec.encode(make(), "step 'x'")
    again, _ = codec.encode(back, "step 'x'")
    assert sorted(again) == sorted(text), "a set may have its elements in another order"


@pytest.mark.parametrize(("annotation", "make"), REFUSED, ids=idea)
def test_what_is_surely_changed_is_refused(annotation: Any, make: Callable[[], Any]) -> None:
    with pytest.raises(NotStorable, match=r"The value of step 'x' cannot be stored"):
        Codec(lambda: annotation).encode(make(), "step 'x'")
