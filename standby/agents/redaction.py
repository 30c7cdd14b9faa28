"""Secrets left out of what people are shown. Pure.

A value whose name says that it is a secret, whether as a field, in a list of pairs, or in a field of its own beside the
value, and words that look like one, become ``[redacted]``. This is a net and not a wall: what must never be seen by the
model must not be given to it.

What is looked through may be long and made to be slow: each pattern takes time that grows with the text's length alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from standby.agents.canonical import is_deeper

REDACTED = "[redacted]"

DEEPEST = 50
"""Lists and objects inside each other that are gone into; what is deeper is looked at, and shown, as text."""

_NAMES = re.compile(
    r"pass(word|wd|phrase|code)?s?$|pwd$|secret|token$|(api|access|private|signing|encryption)[_-]?key|credential"
    r"|authori[sz]ation|cookie|(access|auth|bearer|refresh|session)[_-]?token",
    re.IGNORECASE,
)
_WORDS = re.compile(
    r"""-----BEGIN\ [A-Z\ ]*PRIVATE\ KEY-----.*?(-----END\ [A-Z\ ]*PRIVATE\ KEY-----|$)
    | \b(sk|pk|rk)[-_](live|test|proj|ant|or|svcacct)?[-_]?[A-Za-z0-9_-]{16,}
    | \bgh[pousr]_[A-Za-z0-9]{20,} | \bgithub_pat_[A-Za-z0-9_]{20,} | \bglpat-[A-Za-z0-9_-]{16,}
    | \b(xox[abeoprs]|xapp)-[A-Za-z0-9-]{10,} | (?<=hooks\.slack\.com/)[a-z]{1,20}/[A-Za-z0-9/_-]{16,}
    | \bnpm_[A-Za-z0-9]{30,} | \bhf_[A-Za-z0-9]{20,} | \bya29\.[A-Za-z0-9_-]{16,}
    | \bSG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,} | \bwhsec_[A-Za-z0-9+/=]{16,}
    | \b(AKIA|ASIA)[A-Z0-9]{16}\b | \bAIza[A-Za-z0-9_-]{30,}
    | (?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]*
    | (?<=[Bb]earer\ )[A-Za-z0-9._~+/-]{8,}=* | (?<=[Bb]asic\ )[A-Za-z0-9+/]{8,}=*
    | (?<=://)[^\s/:@]{0,256}:(?!\d{1,5}(?:[/?#\s]|$))[^\s"'<>]{1,256}(?=@)
    | (?<=://)[A-Za-z0-9_-]{16,256}(?=@)""",
    re.VERBOSE | re.DOTALL,
)
_PAIRS = re.compile(
    r"""(?P<name>(pass(word|wd|phrase|code)?|pwd|secret([_-][a-z0-9]{1,20}){0,2}|credentials?|token
                 |(api|access|private|signing|encryption)[_-]?key)(\\*["'])?\s*+
                ([:=]|,\s*+\\*["']value\\*["']\s*+:)\s*+)
    ((?P<quote>\\{0,8}["'])((?!(?P=quote))(\\[^\n]|[^\n\\])){4,}  # as far as the quote ends, or the line
    |(?P<scheme>((basic|bearer|digest|negotiate|token)\s++)?)[^\s"',;&]{4,})""",
    re.IGNORECASE | re.VERBOSE,
)
_LISTED = re.compile(
    r"""(?P<before>[\[,]\s*+\[\s*+\\*["'](?P<name>[\w-]{1,64}+)\\*["']\s*+,\s*+\\*["'])[^"'\\\n]{1,512}+"""
    r"""(?=\\*["']\s*+\])"""
)
_SAYING = (
    r"(a|all|an|and|any|are|as|at|be|by|can|change|changed|character|characters|do|every|expired|field|for|forgot"
    r"|forgotten|from|has|have|here|if|in|incorrect|invalid|is|it|least|length|letters|may|minimum|missing|must|new|no"
    r"|not|of|on|optional|or|please|policy|required|reset|shall|should|strong|that|the|this|to|too|was|we|when|will"
    r"|with|wrong|you|your)\b"
)
"""What is said about a password is hardly said without these, and hardly a password of several words has one."""
_WORD = rf"""(?!{_SAYING})[^\s"',;:=<>(){{}}\[\]]{{1,64}}+(?![:=])"""
_PHRASE = re.compile(
    rf"(?P<name>\b(pass(word|wd|phrase|code)|pwd)[ \t]*+:[ \t]*+){_WORD}([ \t]++{_WORD}){{1,11}}+(?![ \t]++{_SAYING})",
    re.IGNORECASE,
)
_HEADER = re.compile(r"""(?P<name>authori[sz]ation(\\*["'])?\s*+[:=]\s*+(\\*["'])?)[^\n"'\\]{4,}""", re.IGNORECASE)
_COUNTS = re.compile("token", re.IGNORECASE)

_NAME_OF = frozenset({"name", "key", "field", "header", "label", "parameter", "variable"})
_VALUE_OF = frozenset({"value", "values", "val"})
"""How fields are called that have a name, and the value that goes by it."""


def redacted(value: Any) -> Any:
    """A JSON value without its secrets; its text, where it is deeper than ``DEEPEST``."""
    return redacted_text(json.dumps(value, ensure_ascii=False)) if is_deeper(value, DEEPEST) else _redacted(value)


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, dict):
        named = [item for name, item in value.items() if str(name).lower() in _NAME_OF and isinstance(item, str)]
        return {
            redacted_text(str(name)): REDACTED
            if _is_secret(str(name), item)
            else _beside(named if str(name).lower() in _VALUE_OF else (), item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple) and all(map(_is_pair, value)):
        return [[redacted_text(name), _beside([name], item)] for name, item in value]
    return [_redacted(item) for item in value] if isinstance(value, list | tuple) else value


def _beside(names: Iterable[str], value: Any) -> Any:
    """A value beside what may be its name, or a label for people: that has several words, and counts something."""
    counts = isinstance(value, int | float)
    secret = not counts and any(len(name.split()) == 1 and _is_secret(name, value) for name in names)
    return REDACTED if secret else _redacted(value)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str)


def redacted_text(text: str) -> str:
    text = _WORDS.sub(REDACTED, text)
    text = _HEADER.sub(lambda found: f"{found['name']}{REDACTED}", text)
    text = _PHRASE.sub(lambda found: f"{found['name']}{REDACTED}", text)
    text = _LISTED.sub(_listed, text)
    return _PAIRS.sub(lambda found: f"{found['name']}{found['quote'] or found['scheme'] or ''}{REDACTED}", text)


def _listed(found: re.Match[str]) -> str:
    return f"{found['before']}{REDACTED}" if _NAMES.search(found["name"]) else found[0]


def _is_secret(name: str, value: Any) -> bool:
    if value is None or isinstance(value, bool) or _NAMES.search(name) is None:
        return False
    return not isinstance(value, int | float) or _COUNTS.search(name) is None  # a count of tokens is no token
