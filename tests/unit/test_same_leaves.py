"""What a value is looked into for, and what is left alone: no look goes on for ever."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, Flag, IntFlag
from typing import Annotated, Any, overload
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, ConfigDict, PlainSerializer, PlainValidator, PrivateAttr, SecretStr, computed_field

from standby.errors import NotStorable
from standby.values import Codec


class Way(Flag):
    IN = 1
    OUT = 2


class Right(IntFlag):
    READ = 1
    WRITE = 2


class Pair(tuple[int, int], Enum):
    ONE = (1, 1)


class Endless(Sequence[Any]):
    """As a text of one letter is: its first element is it."""

    def __len__(self) -> int:
        return 1

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Any: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self

    def __iter__(self) -> Iterator[Any]:
        yield self


AsText = Annotated[Endless, PlainValidator(lambda _: Endless()), PlainSerializer(lambda _: "x")]


@dataclass
class Seen:
    """As the classes of pydantic-ai are, that fill in what they are asked for."""

    url: str
    _identifier: str | None = field(default=None, compare=False)
    asked: int = field(default=0, compare=False)


def asked() -> Seen:
    seen = Seen("a")
    seen._identifier, seen.asked = "1", 1
    return seen


@dataclass
class Login:
    user: str
    _password: SecretStr = field(default=SecretStr(""), compare=False)


class Made(BaseModel):
    """Its private attributes it fills in itself."""

    shown: int = 1
    _id: UUID = PrivateAttr(default_factory=uuid4)
    _at: datetime = PrivateAttr(default_factory=datetime.now)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)
    _cache: dict[str, int] = PrivateAttr(default_factory=dict)
    _request_id: str | None = None
    _since: float = PrivateAttr()

    def model_post_init(self, _: Any) -> None:
        self._since = time.monotonic()


def used() -> Made:
    made = Made()
    made._cache["a"] = 1
    made._request_id = "req_1"
    return made


class Area(BaseModel):
    model_config = ConfigDict(extra="allow")
    side: int = 2

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.side**2


def accepts(annotation: Any, value: Any) -> Any:
    return Codec(lambda: annotation).encode(value, "step 'x'")[1]


@pytest.mark.parametrize("value", [Way.IN, Way.IN | Way.OUT, Right.READ, Pair.ONE, Way(0)])
@pytest.mark.timeout(10)
def test_an_enum_is_not_looked_into(value: Any) -> None:
    plain = accepts(Any, {"right": [value]})["right"][0]
    assert plain == (list(value.value) if value is Pair.ONE else value.value)
    assert accepts(dict[str, Any], {"right": value})["right"] == plain
    if value is not Pair.ONE:  # which Pydantic does not read back from a list
        assert accepts(type(value) | None, value) is value


@pytest.mark.timeout(10)
def test_what_contains_itself_is_not_looked_into() -> None:
    assert type(accepts(list[AsText], [Endless()])[0]) is Endless


@pytest.mark.parametrize("annotation", [Seen, list[Seen], Seen | None, dict[str, Seen | int]])
def test_what_a_dataclass_does_not_compare_is_not_compared(annotation: Any) -> None:
    made: dict[Any, Any] = {list[Seen]: [asked()], dict[str, Seen | int]: {"a": asked()}}
    value = made.get(annotation, asked())
    assert accepts(annotation, value) == value or value == asked()


def test_a_secret_is_refused_where_it_is_not_compared_too() -> None:
    with pytest.raises(NotStorable, match=r"_password: SecretStr would be read back as another one"):
        accepts(Login, Login("ada", SecretStr("hunter2")))


def test_pictures_for_a_model_and_messages_with_them_are_kept() -> None:
    from pydantic_ai.messages import BinaryContent, DocumentUrl, ImageUrl, ModelMessage, ModelRequest, UserPromptPart

    for one in (BinaryContent(b"\x89PNG", media_type="image/png"), ImageUrl("http://a.example/b.png"),
                DocumentUrl("http://a.example/b.pdf")):  # fmt: skip
        assert one.identifier
        assert accepts(type(one), one) == one
        assert accepts(list[type(one) | str], [one]) == [one]  # type: ignore[misc]
        message = ModelRequest(parts=[UserPromptPart(["look", one])])
        seen = accepts(list[ModelMessage], [message])[0].parts[0].content[1]
        assert isinstance(seen, type(one)), "an image comes back as the class that pydantic-ai makes of one"
        assert seen.identifier == one.identifier


@pytest.mark.parametrize("annotation", [Made, Made | Area, list[Made]])
def test_a_private_attribute_that_its_class_fills_in_comes_back_as_the_class_makes_it(annotation: Any) -> None:
    for made in (Made(), used()):
        back = accepts(annotation, [made] if annotation == list[Made] else made)
        back = back[0] if annotation == list[Made] else back
        assert (back.shown, back._cache, back._request_id) == (1, {}, None)


def test_a_computed_field_is_not_extra() -> None:
    assert accepts(Area, Area()).area == 4
    assert accepts(Area, Area(x=1)).x == 1  # type: ignore[call-arg]
