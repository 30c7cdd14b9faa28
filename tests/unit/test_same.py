"""A value read back is the same as the one that was stored, in all that it has, or is refused."""

import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    RootModel,
    SecretStr,
    computed_field,
    field_serializer,
    field_validator,
)
from typing_extensions import TypedDict

from standby.errors import NotStorable
from standby.values import Codec

T = TypeVar("T")


@dataclass
class Approved:
    comment: str


@dataclass
class Rejected:
    comment: str


class Cat(BaseModel):
    name: str


class Dog(BaseModel):
    name: str


class Puppy(Dog):
    weeks: int = 1


class Stray(Dog):
    """With the fields of any dog."""


class Pack(RootModel[list[Annotated[Dog | Stray, "either"]]]): ...


@dataclass
class Lead:
    dog: "Dog | Stray | None"


class Leads(TypedDict):
    dogs: tuple[int, Dog | Stray]


class Walk(BaseModel):
    first: Dog
    others: list["Stray | Told"]


class Told(BaseModel):
    kind: Literal["told"]
    name: str


class Point(NamedTuple):
    x: int
    y: int


class Size(NamedTuple):
    width: int
    height: int


class Colour(StrEnum):
    RED = "red"


class Mood(StrEnum):
    RED = "red"


class Digit(Enum):
    ONE = 1
    TEXT = "1"


class Way(Flag):
    IN = 1
    OUT = 2


class Login(BaseModel):
    user: str
    password: SecretStr


class Written(BaseModel):
    """A secret that its own serializer writes."""

    password: SecretStr

    @field_serializer("password")
    def written(self, password: SecretStr) -> str:
        return password.get_secret_value()


class Hidden(BaseModel):
    shown: int = 1
    hidden: str = Field(default="none", exclude=True)


class Private(BaseModel):
    shown: int = 1
    _kept: int = PrivateAttr(default=0)
    _lock: object = PrivateAttr(default_factory=object)


class Area(BaseModel):
    side: float

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> float:
        return self.side**2

    @cached_property
    def half(self) -> float:
        return self.side / 2


class Upper(BaseModel):
    text: str

    @field_validator("text")
    @classmethod
    def up(cls, text: str) -> str:
        return text.upper()


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Box(BaseModel, Generic[T]):
    content: T


class Tree(BaseModel):
    name: str
    below: "list[Tree]" = []


class Numbers(RootModel[dict[int, float]]): ...


class Options(TypedDict, total=False):
    b: int
    a: Dog


@dataclass(eq=False)
class NoEquality:
    dogs: list[Dog] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Slots:
    on: date


class ById(BaseModel):
    id: int
    animal: Cat | Dog

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ById) and self.id == other.id

    __hash__ = None  # type: ignore[assignment]


class Array:
    """As those of numpy: compared element by element, and no truth of its own."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers

    def __eq__(self, other: object) -> Any:
        return Array(*(one == two for one, two in zip(self.numbers, other.numbers, strict=True)))  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


Numeric = Annotated[
    Array, PlainValidator(lambda numbers: Array(*numbers)), PlainSerializer(lambda array: list(array.numbers))
]


def numbers() -> Iterator[int]:
    yield from [1, 2]


def private(**kept: Any) -> Private:
    made = Private()
    for name, value in kept.items():
        setattr(made, name, value)
    return made


def seen() -> Area:
    area = Area(side=2)
    assert area.half == 1
    return area


def shrunk() -> set[int]:
    """Its elements stand in another order than in a set made of them."""
    left = set(range(0, 8000, 8))
    left -= set(range(64, 8000, 8))
    return left


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("annotation", "make"),
    [
        (Approved | Rejected, lambda: Rejected("no")),
        (Cat | Dog, lambda: Dog(name="rex")),
        (Dog | Stray, lambda: Stray(name="rex")),
        (dict[str, list[Dog | Stray]], lambda: {"a": [Stray(name="rex")]}),
        (list[Cat | Dog], lambda: [Cat(name="tom"), Dog(name="rex")]),
        (Lead, lambda: Lead(Stray(name="rex"))),
        (Leads, lambda: {"dogs": (0, Stray(name="rex"))}),
        (list[Stray | Dog], lambda: [Dog(name="rex")]),
        (list[Dog] | list[Stray], lambda: [Stray(name="rex")]),
        (tuple[Dog, Pack], lambda: (Dog(name="rex"), Pack([Stray(name="rex")]))),
        (ById, lambda: ById(id=1, animal=Dog(name="rex"))),
        (dict[str, Point | Size], lambda: {"a": Size(1, 2)}),
        (Colour | Mood, lambda: Mood.RED),
        (Dog | dict[str, str], lambda: {"name": "rex"}),
        (SecretStr, lambda: SecretStr("hunter2")),
        (Login, lambda: Login(user="ada", password=SecretStr("hunter2"))),
        (Any, lambda: {"login": Login(user="ada", password=SecretStr("hunter2"))}),
        (Any, lambda: [SecretStr("hunter2")]),
        (dict[str, str], lambda: {"caf\udce9": "a"}),
        (Any, lambda: {"deep": [{"caf\udce9": "a"}]}),
        (Open, lambda: Open(**{"x": {"\udce9": 1}})),  # noqa: PIE804
        (dict[Digit, int], lambda: {Digit.ONE: 1}),
        (datetime, lambda: datetime(1890, 1, 1, tzinfo=ZoneInfo("Europe/Amsterdam"))),
        (datetime, lambda: datetime(2026, 1, 1, tzinfo=timezone(timedelta(minutes=1, seconds=30)))),
        (list[datetime], lambda: [datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=1)))]),
        (re.Pattern, lambda: re.compile("a", re.IGNORECASE)),
        (Hidden, lambda: Hidden(hidden="this")),
        (Hidden | None, lambda: Hidden(hidden="this")),
        (Private, lambda: private(_kept=7)),
        (deque[int], lambda: deque([1, 2], maxlen=3)),
        (Iterator[int], numbers),
        (Upper, lambda: Upper.model_construct(text="a")),
    ],
)
def test_what_would_come_back_as_something_else_is_refused(annotation: Any, make: Callable[[], Any]) -> None:
    """Failure 8."""
    with pytest.raises(NotStorable, match=r"The value of step 'x' cannot be stored as JSON and read back the same: "):
        Codec(lambda: annotation).encode(make(), "step 'x'")


def test_the_refusal_names_the_place_and_both_types_and_shows_no_value() -> None:
    with pytest.raises(NotStorable, match=r"orders\.1\.answer: Rejected would be read back as Approved"):
        Codec(lambda: dict[str, list[dict[str, Approved | Rejected]]]).encode(
            {"orders": [{"answer": Approved("")}, {"answer": Rejected("hunter2")}]}, "step 'x'"
        )
    with pytest.raises(NotStorable, match=r"password: SecretStr would be read back as another one") as refused:
        Codec(lambda: Login).encode(Login(user="ada", password=SecretStr("hunter2")), "step 'x'")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("annotation", "make"),
    [
        (Told | Dog, lambda: Told(kind="told", name="x")),
        (Told | Dog, lambda: Dog(name="x")),
        (int | str, lambda: "1"),
        (int | float, lambda: 1.0),
        (bool | int, lambda: 1),
        (list[int | bool], lambda: [True, 1]),
        (Written, lambda: Written(password=SecretStr("hunter2"))),
        (Hidden, Hidden),
        (Area, seen),
        (Open, lambda: Open(x=1, y={"z": None})),  # type: ignore[call-arg]
        (Box[int], lambda: Box[int](content=1)),
        (Tree, lambda: Tree(name="a", below=[Tree(name="b")])),
        (Numbers, lambda: Numbers({1: 2.5})),
        (Options, lambda: {"a": Dog(name="x"), "b": 1}),
        (list[Options], lambda: [{}]),
        (Point | Size, lambda: Point(1, 2)),
        (Slots, lambda: Slots(date(2026, 1, 1))),
        (ById, lambda: ById(id=1, animal=Cat(name="tom"))),
        (dict[Digit, int], lambda: {Digit.TEXT: 1}),
        (Way, lambda: Way.IN | Way.OUT),
        (Counter[str], lambda: Counter("aab")),
        (defaultdict[str, int], lambda: defaultdict(int, a=1)),
        (OrderedDict[str, int], lambda: OrderedDict(b=1, a=2)),
        (deque[int], lambda: deque([1])),
        (frozenset[tuple[int, str]], lambda: frozenset({(1, "a")})),
        (set[int], shrunk),
        (AbstractSet[int] | None, lambda: frozenset({1, 2})),
        (time, lambda: time(1, 2, tzinfo=UTC)),
        (datetime, lambda: datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN)),
        (datetime | str, lambda: datetime(2026, 1, 1, tzinfo=UTC)),
        (list[datetime], lambda: [datetime.max.replace(tzinfo=BERLIN), datetime(1, 1, 1, tzinfo=UTC)]),
        (re.Pattern, lambda: re.compile("a")),
        (HttpUrl, lambda: HttpUrl("http://a.example")),
        (Decimal | float, lambda: Decimal("1.10")),
        (timedelta, lambda: timedelta.min),
        (Path | int, lambda: Path("a")),
    ],
)
def test_what_is_right_is_kept(annotation: Any, make: Callable[[], Any]) -> None:
    _, back = Codec(lambda: annotation).encode(make(), "step 'x'")
    assert type(back) is type(make())
    assert back == make() or isinstance(back, datetime)


@pytest.mark.parametrize(
    ("annotation", "make", "seen"),
    [
        (float, lambda: 1, 1.0),
        (list[float] | None, lambda: [1], [1.0]),
        (Any, lambda: {1: (Decimal("1.1"), {date(2026, 1, 1)})}, {"1": ["1.1", ["2026-01-01"]]}),
        (Any, lambda: [Dog(name="x"), Rejected("no"), Mood.RED], [{"name": "x"}, {"comment": "no"}, "red"]),
        (str | date, lambda: date(2026, 1, 1), "2026-01-01"),
        (Sequence[int], lambda: (1, 2), [1, 2]),
        (Dog, lambda: Puppy(name="x", weeks=3), Dog(name="x")),
        (Dog | None, lambda: Stray(name="x"), Dog(name="x")),
        (tuple[Dog | None, Stray], lambda: (Stray(name="x"), Stray(name="y")), (Dog(name="x"), Stray(name="y"))),
        (list[Dog | Told], lambda: [Puppy(name="x")], [Dog(name="x")]),
        (Walk, lambda: Walk(first=Stray(name="x"), others=[Stray(name="y")]), None),
        (tuple[Dog, list[Dog | Puppy]], lambda: (Puppy(name="x"), [Puppy(name="y")]), None),
        (Approved, lambda: type("Later", (Approved,), {})("yes"), Approved("yes")),
        (AnyUrl, lambda: HttpUrl("http://a.example"), AnyUrl("http://a.example")),
        (Box[int], lambda: Box(content=1), Box[int](content=1)),
        (Private, lambda: private(_kept=0), None),
        (NoEquality, lambda: NoEquality([Dog(name="x")]), None),
        (list[Numeric], lambda: [Array(1, 2)], None),
    ],
)  # fmt: skip
def test_an_annotation_that_says_less_gets_less_back(annotation: Any, make: Callable[[], Any], seen: Any) -> None:
    _, back = Codec(lambda: annotation).encode(make(), "step 'x'")
    assert seen is None or back == seen
