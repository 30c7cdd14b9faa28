"""Conditions on the arguments of a tool, as data. Pure: no condition looks at the world.

A condition holds only for a value that it fully understands. An argument that is missing, of another type, or written
in a way that two programs could read differently does not meet it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Annotated, Any, Literal
from unicodedata import category, normalize
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

_MISSING = object()
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,29})(\.[0-9]{1,30})?")
"""Without a zero before it, which some read as octal."""
_URL = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?([/?#][!-\[\]-~]*)?")
"""Nothing but printable ASCII without a backslash, and an authority without a user: what every parser reads alike."""
_IPV4 = re.compile(r"((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(\.(?!$)|$)){4}")
"""An address as everybody writes it: four numbers, none with a zero before it, which some read as octal."""
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?")


class _Condition(BaseModel):
    """``argument``: its name; of a field inside it, dotted: ``order.amount``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    argument: str = Field(title="Argument", description="Its name; of a field inside it, order.amount.", min_length=1)

    def values_in(self, arguments: Mapping[str, Any]) -> list[Any]:
        """What the name may mean: the field inside, first, and whatever else has a key with a dot in it."""
        return [_inside(arguments, self.argument.split(".")), *_dotted(arguments, self.argument)]

    def holds(self, arguments: Mapping[str, Any]) -> bool:
        return all(map(self.met_by, self.values_in(arguments)))

    def cannot_hold(self, arguments: Mapping[str, Any]) -> bool:
        """Whether it holds for nothing that the name may mean."""
        return all(map(self.certainly_fails, self.values_in(arguments)))

    def met_by(self, value: Any) -> bool:
        raise NotImplementedError

    def certainly_fails(self, value: Any) -> bool:
        """Whether the value is understood and is another: what cannot be judged does not get past a ban."""
        raise NotImplementedError


def _inside(found: Any, names: list[str]) -> Any:
    for name in names:
        if not isinstance(found, Mapping) or name not in found:
            return _MISSING
        found = found[name]
    return found


def _dotted(arguments: Any, argument: str) -> Iterator[Any]:
    """What is there under the name if keys may have dots themselves, in any way but the one in which none has."""
    if not isinstance(arguments, Mapping):
        return
    names = argument.split(".")
    for many in range(1, len(names) + 1):
        key, rest = ".".join(names[:many]), names[many:]
        if key not in arguments:
            continue
        if many > 1:
            value = _inside(arguments[key], rest)
            if value is not _MISSING:
                yield value
        if rest:
            yield from _dotted(arguments[key], ".".join(rest))


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    if isinstance(value, str) and _NUMBER.fullmatch(value) is None:
        return None
    number = Decimal(str(value))
    return number if number.is_finite() else None


class AtMost(_Condition):
    """The argument is a number, at most ``limit``, and not below ``least`` (0)."""

    model_config = ConfigDict(
        json_schema_extra={"description": "The argument is a number from the least to the limit."}
    )

    kind: Literal["at most"] = "at most"
    limit: Decimal = Field(title="Limit")
    least: Decimal = Field(default=Decimal(0), title="Least")

    def met_by(self, value: Any) -> bool:
        number = _number(value)
        return number is not None and self.least <= number <= self.limit

    def certainly_fails(self, value: Any) -> bool:
        return _number(value) is not None and not self.met_by(value)

    @property
    def said(self) -> str:
        return f"{self.argument} from {self.least} to {self.limit}"


class OneOf(_Condition):
    """The argument is one of these values, to the letter.

    Under ``deny`` it is also what a program may take for one of them: texts that differ in case, accents, width, white
    space or invisible characters, and numbers however they are written. Another name for the same thing, or a text in
    which one of them stands beside others, is another value: where those matter, allow what is known instead.
    """

    model_config = ConfigDict(json_schema_extra={"description": "The argument is one of these values."})

    kind: Literal["one of"] = "one of"
    values: tuple[str | int | bool, ...] = Field(min_length=1)

    def met_by(self, value: Any) -> bool:
        # In Python True == 1: the types must be the same, too.
        return any(type(value) is type(one) and value == one for one in self.values)

    def certainly_fails(self, value: Any) -> bool:
        # The model may choose the type, and what the tool makes of it is the tool's: "1", 1 and true may be one.
        return isinstance(value, str | int | bool) and all(_is_another(value, one) for one in self.values)

    @property
    def said(self) -> str:
        return f"{self.argument} one of {', '.join(map(str, self.values))}"


_FOR_ONE = frozenset(("true", "t", "yes", "y", "on"))
_FOR_ZERO = frozenset(("false", "f", "no", "n", "off", "", "null", "none"))


def _is_another(value: str | int | bool, one: str | int | bool) -> bool:
    """Whether the two are different whatever they are taken for."""
    if isinstance(value, str) and isinstance(one, str):
        return _folded(value) != _folded(one) and not _may_be_one_number(value, one)
    if type(value) is type(one):
        return value != one
    if isinstance(one, bool):
        return False  # to some programs whatever is there is true
    mine, theirs = _taken_for(value), _taken_for(one)
    if mine is None or theirs is None:
        return not any(isinstance(text, str) and _may_be_counted(text) for text in (value, one))
    return mine != theirs


def _taken_for(value: str | int | bool) -> Decimal | None:
    """The number that a program may make of it; None if that cannot be told, or there is none."""
    if not isinstance(value, str):
        return Decimal(int(value))
    word = _folded(value).lower()
    if word in _FOR_ONE or word in _FOR_ZERO:
        return Decimal(word in _FOR_ONE)
    return _decimal(value)


def _may_be_one_number(text: str, other: str) -> bool:
    """Whether two texts may be the same number: one is a number, and the other is that, or begins with it."""
    mine, theirs = _decimal(text), _decimal(other)
    if mine is not None and theirs is not None:
        return mine == theirs
    if mine is not None:
        return _begins_with(_folded(other), mine)
    return theirs is not None and _begins_with(_folded(text), theirs)


_LEADING = re.compile(r"(?P<number>[0-9][0-9.,_']*)(?P<power>E[+-]?[0-9]{1,9})?")


def _begins_with(text: str, number: Decimal) -> bool:
    """``1,000`` and ``1000 EUR`` begin with 1000, and so does, to be sure, what is in another base or other digits."""
    start = next((at for at, char in enumerate(text) if char.isalnum()), len(text))
    found = _LEADING.match(text, start)
    if found is None or text.startswith(("0X", "0O", "0B"), start):
        return text[start : start + 1].isnumeric()
    if found["power"] is not None and (value := _decimal(found[0])) is not None:
        return value == abs(number)
    if found["number"].isdigit():
        return Decimal(found["number"]) == abs(number)
    _, whole, power = abs(number).normalize().as_tuple()
    digits = "".join(filter(str.isdigit, found["number"])).lstrip("0")
    if not number or not isinstance(power, int) or power > len(digits):
        return not number and not digits
    return digits.startswith("".join(map(str, whole)) + "0" * power)


def _decimal(text: str) -> Decimal | None:
    try:
        number = Decimal(_folded(text))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _may_be_counted(text: str) -> bool:
    """Whether a text that is no plain number may be one all the same: ``0x1``, ``1,000``, ``inf``."""
    return any(char.isnumeric() for char in text) or _folded(text).strip("+-").startswith(("INF", "NAN"))


_UNSEEN = frozenset("\u115f\u1160\u2800\u3164\uffa0\U0001d159")
"""What is shown as nothing and counts as a letter or a symbol; the other invisible characters have categories."""


def _folded(text: str) -> str:
    """A text as a program may see it that compares loosely: capitals, as wide as ASCII, and nothing but what is seen.

    Without white space, accents, control and format characters, and whatever else is no character that anybody knows.
    """
    return "".join(map(_folded_char, text))


@lru_cache(maxsize=4096)
def _folded_char(char: str) -> str:
    # One by one: to put many accents in order takes time that grows with their square.
    seen = normalize("NFKD", normalize("NFKD", char).casefold().upper())
    return "".join(one for one in seen if category(one)[0] not in "CMZ" and one not in _UNSEEN)


class HostIn(_Condition):
    """The argument is an http or https URL whose host is in the list. ``*.example.org``: any host below it.

    Another port than the scheme's own has to be named: ``example.org:8443``. ``https_only`` (True): no http.
    """

    model_config = ConfigDict(json_schema_extra={"description": "The argument is a URL with one of these hosts."})

    kind: Literal["host in"] = "host in"
    hosts: tuple[str, ...] = Field(
        title="Hosts", description="Such as example.org, or *.example.org for any below it.", min_length=1
    )
    https_only: bool = Field(default=True, title="No http", description="https only.")

    @field_validator("hosts")
    @classmethod
    def _plain(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        lowered = tuple(host.lower() for host in hosts)
        for host in lowered:
            if _HOST.fullmatch(host) is None or ".." in host:
                raise ValueError(f"{host!r} is not a host: give example.org, or *.example.org for the hosts below it")
        return lowered

    def met_by(self, value: Any) -> bool:
        address = _address(value)
        if address is None or (self.https_only and address[0] != "https"):
            return False
        _, host, port = address
        named = host if port is None else f"{host}:{port}"
        return any(_is(named, allowed) for allowed in self.hosts)

    def certainly_fails(self, value: Any) -> bool:
        address = _address(value)
        if address is None or _may_be_number(address[1]):
            return False
        names = [host.partition(":")[0] for host in self.hosts]
        # A number among the hosts may be reached by any name.
        return not any(_may_be_number(name) or _is(address[1], name) for name in names)

    @property
    def said(self) -> str:
        return f"{self.argument} at {', '.join(self.hosts)}"


def _address(value: Any) -> tuple[str, str, int | None] | None:
    """Scheme, host, and port unless it is the scheme's own, of a URL that every parser reads alike."""
    if not isinstance(value, str) or _URL.fullmatch(value) is None:
        return None
    try:
        parts = urlsplit(value)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    if _HOST.fullmatch(host) is None or ".." in host or host.startswith("*"):
        return None
    if _may_be_number(host) and _IPV4.fullmatch(host) is None:
        return None
    return parts.scheme, host, None if port == {"http": 80, "https": 443}[parts.scheme] else port


def _may_be_number(host: str) -> bool:
    """Whether the host may be an address: ``127.0.0.1``, and what some take for it, such as 2130706433 or 0x7f.1."""
    last = host.rsplit(".", 1)[-1]
    return last.isdigit() or re.fullmatch("0x[0-9a-f]*", last) is not None


def _is(named: str, allowed: str) -> bool:
    return named.endswith(allowed[1:]) and named != allowed[1:] if allowed.startswith("*.") else named == allowed


class Below(_Condition):
    """The argument is a path below ``folder``. An absolute path fits an absolute folder, a relative one a relative.

    Only the words are looked at: whoever opens the file must not follow a link out of the folder.
    """

    model_config = ConfigDict(json_schema_extra={"description": "The argument is a path below the folder."})

    kind: Literal["below"] = "below"
    folder: str = Field(title="Folder", description="Such as out, or /data/out.", min_length=1)

    @field_validator("folder")
    @classmethod
    def _plain(cls, folder: str) -> str:
        if _path(folder) is None:
            raise ValueError(f"{folder!r} is not a plain folder: give data/out or /data/out, without '..', '~' or '\\'")
        return folder

    def met_by(self, value: Any) -> bool:
        path, folder = _path(value), _path(self.folder)
        if path is None or folder is None or posixpath.isabs(path) != posixpath.isabs(folder):
            return False
        return path != "." if folder == "." else path.startswith(folder.rstrip("/") + "/")

    def certainly_fails(self, value: Any) -> bool:
        path, folder = _path(value), _path(self.folder)
        if path is None or folder is None or posixpath.isabs(path) != posixpath.isabs(folder):
            return False
        # The folder itself, and what it lies in, reach into it.
        mine, theirs = _as_some_see(path), _as_some_see(folder)
        if mine is None or theirs is None:
            return False
        within = "." in (mine, theirs) or mine == theirs
        return not within and not _lies_in(mine, theirs) and not _lies_in(theirs, mine)

    @property
    def said(self) -> str:
        return f"{self.argument} below {self.folder}"


def _lies_in(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _as_some_see(path: str) -> str | None:
    """A path as file systems see it that do not tell A from a, nor "x" from "x. " and "x:stream"."""
    if re.search("~[0-9]|^[A-Za-z]:", path):
        return None  # a short name, such as SECRET~1, may be of any other; and so may what lies on a drive
    parts = [_folded(part).partition(":")[0].rstrip(".") for part in path.split("/")]
    return ("/" if posixpath.isabs(path) else "") + "/".join(filter(None, parts)) or "."


def _path(value: Any) -> str | None:
    """A path in its plain form; None for one that could lead elsewhere."""
    if not isinstance(value, str) or not value or "\0" in value:
        return None
    folded = _folded(value)  # where a wide stop or stroke counts, and ".. " is ".."
    if "\\" in value + folded or "~" in (value[0], folded[:1]) or folded.count("/") != value.count("/"):
        return None
    parts = zip(value.split("/"), folded.split("/"), strict=True)
    if any(seen and not seen.strip(".") and part != "." for part, seen in parts):
        return None
    # POSIX gives two slashes at the beginning a meaning of their own, which nobody means.
    return posixpath.normpath(re.sub("^/+", "/", value))


Condition = Annotated[AtMost | OneOf | HostIn | Below, Field(discriminator="kind")]
