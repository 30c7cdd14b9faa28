"""No call outside the scope is allowed, whatever the scope, the tool and the arguments are."""

import sys
from datetime import UTC, timedelta
from decimal import Decimal
from time import process_time
from typing import Any, Literal
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from standby.agents.budgets import Budget, Spent, exhausted, left_of
from standby.agents.conditions import AtMost, Below, HostIn, OneOf
from standby.agents.permissions import may_be_called, ruling
from standby.agents.scope import STRICTEST_FIRST, AgentScope, Asking, AtStop, Permission, Rule
from standby.errors import UsageError
from standby.policy import Escalation, Policy

# Threads of other tests that use random meanwhile are no fault of what is drawn here.
pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")

TOOLS = st.sampled_from(["pay", "fetch", "write"])
ARGUMENTS = st.sampled_from(["amount", "url", "path", "order.amount"])
CONDITIONS = st.one_of(
    st.builds(AtMost, argument=ARGUMENTS, limit=st.decimals(0, 1000, places=2)),
    st.builds(OneOf, argument=ARGUMENTS, values=st.lists(st.sampled_from(["a", 1, True]), min_size=1).map(tuple)),
    st.builds(HostIn, argument=ARGUMENTS, hosts=st.just(("example.org", "*.example.com")), https_only=st.booleans()),
    st.builds(Below, argument=ARGUMENTS, folder=st.sampled_from(["/data", "out", "."])),
)
RULES = st.builds(
    Rule, tool=TOOLS, permission=st.sampled_from(Permission), when=st.lists(CONDITIONS, max_size=2).map(tuple)
)
AMOUNTS = st.none() | st.integers(0, 9)
BUDGETS = st.builds(Budget, steps=AMOUNTS, tool_calls=AMOUNTS, tokens=AMOUNTS, money=AMOUNTS)
SCOPES = st.builds(
    AgentScope,
    tools=st.lists(RULES, max_size=4).map(tuple),
    budget=BUDGETS,
    deadline=st.none() | st.datetimes(timezones=st.just(UTC)),
    at_stop=st.sampled_from(AtStop),
)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 2000), st.floats(), st.text(max_size=8),
    st.sampled_from(["https://example.org/x", "https://a.example.com", "http://example.org", "https://example.org@evil",
                     "/data/x", "/data/../etc", "out/x", "//data/x", "12.5", "1e3", "a"]),
    st.dictionaries(st.sampled_from(["amount", "url"]), st.integers(), max_size=2), st.lists(st.integers(), max_size=2),
)  # fmt: skip
CALLS = st.dictionaries(st.sampled_from(["amount", "url", "path", "order"]), VALUES, max_size=4)


FORMS: tuple[Literal["NFC", "NFD", "NFKC", "NFKD"], ...] = ("NFC", "NFD", "NFKC", "NFKD")


def freedom(permission: Permission) -> int:
    return STRICTEST_FIRST.index(permission)


@settings(deadline=None, database=None)
@given(SCOPES, st.text(max_size=5), CALLS)
def test_a_tool_that_the_scope_does_not_name_is_denied(scope: AgentScope, tool: str, arguments: dict[str, Any]) -> None:
    assert ruling(scope, f"other-{tool}", arguments).permission is Permission.DENY
    assert not may_be_called(scope, f"other-{tool}")


@settings(deadline=None, database=None)
@given(SCOPES, TOOLS, CALLS)
def test_what_is_allowed_is_allowed_by_a_rule_that_holds_and_banned_by_none(
    scope: AgentScope, tool: str, arguments: dict[str, Any]
) -> None:
    permission, why = ruling(scope, tool, arguments)
    assert why
    rules = [rule for rule in scope.tools if rule.tool == tool]
    holding = {rule.permission for rule in rules if all(one.holds(arguments) for one in rule.when)}
    if permission is not Permission.DENY:
        assert permission in holding
        assert Permission.DENY not in holding
        assert may_be_called(scope, tool)
    if permission is Permission.ASK:
        assert Permission.ALLOW not in holding


@settings(deadline=None, database=None)
@given(SCOPES, SCOPES, TOOLS, CALLS)
def test_a_narrowed_scope_never_allows_more_than_either(
    wide: AgentScope, other: AgentScope, tool: str, arguments: dict[str, Any]
) -> None:
    narrowed = wide.narrowed(other)
    for one in (wide, other):
        assert freedom(ruling(narrowed, tool, arguments).permission) <= freedom(ruling(one, tool, arguments).permission)
        assert not may_be_called(narrowed, tool) or may_be_called(one, tool)
        for name in Budget.model_fields:
            limit, mine = getattr(one.budget, name), getattr(narrowed.budget, name)
            assert limit is None or (mine is not None and mine <= limit)
        assert one.deadline is None or (narrowed.deadline is not None and narrowed.deadline <= one.deadline)
        assert narrowed.at_stop is not AtStop.ASK or one.at_stop is AtStop.ASK
    thrice = narrowed.narrowed(other)
    assert freedom(ruling(thrice, tool, arguments).permission) <= freedom(ruling(narrowed, tool, arguments).permission)


@settings(deadline=None, database=None)
@given(SCOPES, SCOPES)
def test_a_scope_is_data(wide: AgentScope, other: AgentScope) -> None:
    narrowed = wide.narrowed(other)
    assert AgentScope.model_validate_json(narrowed.model_dump_json()) == narrowed


@pytest.mark.parametrize(
    ("condition", "fits", "does_not"),
    [
        (AtMost(argument="x", limit=Decimal(500)), [0, 500, 499.99, "500", "12.50"],
         [501, -1, True, "500.01", "1e2", "٥", "NaN", float("nan"), float("inf"), None, [1], "0x1", " 5", "",
          "010", "00.5"]),
        (OneOf(argument="x", values=("a", 1)), ["a", 1], ["A", True, 1.0, "1", None, ["a"]]),
        (HostIn(argument="x", hosts=("example.org", "*.example.com", "example.net:8443")),
         ["https://example.org", "https://EXAMPLE.org/a?b#c", "https://a.b.example.com:443/", "https://example.net:8443"],
         ["http://example.org", "https://example.org.evil.com", "https://example.com", "https://evil.com/example.org",
          "https://example.org@evil.com", "https://evil.com\\@example.org", "https://example.org:22", "//example.org",
          "https://example.org.", "https://exa\nmple.org", "https://[::1]", "ftp://example.org", "https://xexample.com",
          "https://example.org:99999", "file:///etc/passwd", "https://éxample.org", "https://example.net", None, 1]),
        (HostIn(argument="x", hosts=("example.org",), https_only=False), ["http://example.org"], ["http://other.org"]),
        (Below(argument="x", folder="/data/out"), ["/data/out/a", "/data/out//b/c", "//data/out/a"],
         ["/data/out", "/data/output/x", "/data/out/../x", "out/a", "/etc/passwd", "/data/out/\0",
          "a\\..\\b", "", None]),
        (Below(argument="x", folder="."), ["a", "a/b", "./a"], ["../a", "/a", ".", "a/../../b", "~/x", "\uff0e",
         ".. /a", "a/\uff0e\uff0e/\uff0e\uff0e/b", "a/\u2025/\u2025/b", "a\uff3c..\uff3cb", "..\uff0fa", "\uff5e/x"]),
    ],
    ids=["at most", "one of", "hosts", "http", "absolute folder", "relative folder"],
)  # fmt: skip
def test_conditions(condition: Any, fits: list[Any], does_not: list[Any]) -> None:
    assert [value for value in fits if not condition.holds({"x": value})] == []
    assert [value for value in does_not if condition.holds({"x": value})] == []
    assert not condition.holds({})


@pytest.mark.parametrize(
    ("ban", "banned", "passes"),
    [
        (HostIn(argument="x", hosts=("evil.org",)), ["https://evil.org", "http://evil.org", "https://evil.org:99",
         "https://evil.org.", "https://good.org@evil.org", None, 3, "https://127.1", "https://2130706433",
         "https://0x7f.1", "https://0x7f000001", "https://127.0.0.1"], ["https://good.org"]),
        (HostIn(argument="x", hosts=("127.0.0.1",)), ["https://127.1", "https://0177.0.0.1", "https://a.org"], []),
        (Below(argument="x", folder="/etc"), ["/etc/passwd", "//etc/passwd", "/x/../etc/passwd", "etc", None, "/etc",
         "/etc/", "/", "/ETC/passwd"], ["/data", "/etcetera"]),
        (Below(argument="x", folder="data/out"), ["data/out", "./data/out/", "data", ".", "data/out/a"],
         ["data/other"]),
        (AtMost(argument="x", limit=Decimal(5)), [1, 1.0, "1", True, "1e0", "010", None, "x", [1]], [6, "6"]),
        (OneOf(argument="x", values=(1,)), [1, "1", 1.0, True, "1.0", "01", " 1", "+1", "1e0", "1_", "0x1", "\u0661",
         "\u00b9", "true", "Yes", "on", "inf", None, [1], {"x": 1}], [2, 0, False, "2", "no", "x", ""]),
        (OneOf(argument="x", values=("1",)), ["1", 1, 1.0, True, "1.0", "01", None, ["1"]], [2, False, "2", "x", "A1"]),
        (OneOf(argument="x", values=(True,)), [True, 1, 2, 1.0, "1", "true", "false", "x", None], [False]),
        (OneOf(argument="x", values=("no", "x")), ["no", "x", False, 0, 0.0, None], [True, 1, "yes", "y"]),
        (OneOf(argument="x", values=(0,)), [0, False, "0", "", "null", "off", 0.0], [1, True, "1", "x"]),
        (OneOf(argument="x", values=("all", 1)), ["all", 1, True, "1"], ["ben", 2, False, "2"]),
        (OneOf(argument="x", values=("eve@x.org", "RUB", "Ren\u00e9 Gro\u00df")),
         ["eve@x.org", "Eve@X.org", "eve@x.org ", "rub", "RUB\n", "\uff32\uff35\uff22", "\ufeffRUB", "R\u200bUB",
          "R\u00adUB", "\u3164rub", "R\u0336UB", "\U0001d411UB", "rene\u0301 gross", "RENE\u00a0GROSS",
          "Rene  Gro\u1e9e", "\x00rub"],
         ["ada@x.org", "EUR", "RUB1", "", "\u0420UB"]),
        (OneOf(argument="x", values=("I",)), ["i", "\u0131", "\u0130", "\u2160"], ["l"]),
        (OneOf(argument="x", values=("1000",)), ["1,000", "1 000", "1'000", "1e3", "0x3e8", "1000 EUR", "$1,000",
         "\uff11\uff10\uff10\uff10", "\u0661\u0660\u0660\u0660", "+1000.0"], ["2000", "A1000", "all"]),
        (OneOf(argument="x", values=("1,000",)), ["1000", 1000, "1,000"], ["x"]),
        (OneOf(argument="x", values=("12.5", "0", "2024", "12e4567")), ["12.50 EUR", "12,50", "0 EUR", "0.00x",
         "2024-05", "1.25e1 EUR"], ["2023-05-01", "3 boxes", "9f86d081", "8080-8090", "12.6 EUR", "1,234"]),
        (OneOf(argument="x", values=(1,)), ["\uff11", "\u2460", "\u200b1", "\uff54rue", "t\u200brue", "\u2160\u00bd"],
         ["\u200b2"]),
        (AtMost(argument="x", limit=Decimal(5)), ["5 ", "\uff15", "\u200b5", "5,0", "\u0665", "0x5", "+5"], ["6.0"]),
        (HostIn(argument="x", hosts=("evil.org",)), ["https://EVIL.org", "HTTPS://evil.org", "https://\uff45vil.org",
         "https://evil\u3002org", "https://ev\u00adil.org", " https://evil.org", "https://evil.org\u200b",
         "https://evil%2eorg"], ["https://GOOD.org"]),
        (Below(argument="x", folder="/Data/\u00c9t\u00e9"), ["/data/\u00e9t\u00e9/x", "/DATA/e\u0301te\u0301",
         "/data/ete/x", "/data\u200b/\u00e9t\u00e9/x", "/data/\uff45\uff54\uff45/x", "/data /ete./x", "/data/ete:x/y",
         "/data/ET~1/x", "/data/.. /data/ete", "/x/\uff0e\uff0e/data/ete", "/x/\u2025/data/ete", "\uff0fdata/ete",
         "/data\uff3cete", "/\u200b/data/ete", "/ "], ["/data/hiver", "/data/eteignoir", "/x/data/ete"]),
        (Below(argument="x", folder="out"), ["OUT/a", "out\u2060/a", "c:out/a", "\uff5e/out"], ["data/out"]),
    ],
    ids=["hosts", "a number as a host", "folder", "relative folder", "number", "a whole number", "a number as a text",
         "true", "a word that some take for false", "zero", "of two types", "texts",
         "a letter with two kinds of capitals",
         "a number with a stroke", "and without", "what begins with a number", "digits of all kinds", "a limit",
         "hosts of all kinds", "a folder of all kinds", "a relative folder of all kinds"],
)  # fmt: skip
def test_what_a_condition_cannot_judge_does_not_get_past_a_ban(ban: Any, banned: list[Any], passes: list[Any]) -> None:
    scope = AgentScope(
        tools=(
            Rule(tool="fetch", permission=Permission.ALLOW),
            Rule(tool="fetch", permission=Permission.DENY, when=(ban,)),
        )
    )
    assert [v for v in banned if ruling(scope, "fetch", {"x": v}).permission is not Permission.DENY] == []
    assert ruling(scope, "fetch", {}).permission is Permission.DENY
    assert [v for v in passes if ruling(scope, "fetch", {"x": v}).permission is not Permission.ALLOW] == []


def test_a_text_is_banned_in_whatever_way_unicode_has_it() -> None:
    """Of every character: in capitals, in small letters, and in each of the normal forms."""
    for point in range(sys.maxunicode + 1):
        one = chr(point)
        others = {one.upper(), one.lower(), one.casefold(), *(normalize(form, one) for form in FORMS)} - {one}
        if others:
            ban = OneOf(argument="x", values=(one,))
            assert not any(map(ban.certainly_fails, others)), f"{point:x}"


def test_a_long_text_is_judged_in_a_time_that_grows_with_its_length() -> None:
    before = process_time()
    assert not OneOf(argument="x", values=("a",)).certainly_fails("a" + "\u0301\u0323" * 200_000)
    assert process_time() - before < 3


@pytest.mark.parametrize("folder", ["~/x", "data/../secret", "..", "C:\\data", "a\0b", ""])
def test_a_folder_that_could_be_another_is_refused(folder: str) -> None:
    with pytest.raises(ValidationError, match="folder"):
        Below(argument="x", folder=folder)


def test_a_host_that_is_a_number_is_only_allowed_as_everybody_writes_it() -> None:
    condition = HostIn(argument="x", hosts=("127.0.0.1", "127.1"))
    assert condition.holds({"x": "https://127.0.0.1/a"})
    assert not any(condition.holds({"x": f"https://{host}"}) for host in ("127.1", "0177.0.0.1", "127.0.0.01"))


def test_a_field_inside_an_argument_is_reached_by_its_dotted_name() -> None:
    condition = AtMost(argument="order.amount", limit=Decimal(5))
    assert condition.holds({"order": {"amount": 5}})
    assert not any(condition.holds(one) for one in ({"order": 5}, {"order.amount": 5}, {"order": [5]}, {}))


@pytest.mark.parametrize(
    "arguments",
    [
        {"order.to.name": "prod", "order": {"to": {"name": "dev"}}},
        {"order.to": {"name": "prod"}, "order": {"to": {"name": "dev"}}},
        {"order": {"to.name": "prod", "to": {"name": "dev"}}},
        {"order.to.name": "dev", "order": {"to": {"name": "prod"}}},
        {"order.to.name": "prod"},
        {"order": {"to.name": "prod"}},
    ],
)
def test_of_a_dotted_name_that_can_be_read_in_two_ways_both_count(arguments: dict[str, Any]) -> None:
    """A call is banned if either may be meant, and allowed only if both may."""

    def permission(allowed: tuple[str, ...], banned: tuple[str, ...]) -> Permission:
        rules = [
            Rule(tool="go", permission=permission, when=(OneOf(argument="order.to.name", values=values),))
            for permission, values in ((Permission.ALLOW, allowed), (Permission.DENY, banned))
        ]
        return ruling(AgentScope(tools=tuple(rules)), "go", arguments).permission

    assert permission(("dev",), ("other",)) is Permission.DENY
    assert permission(("prod",), ("other",)) is Permission.DENY
    assert permission(("dev", "prod"), ("prod",)) is Permission.DENY
    if "order" in arguments and "to" in arguments["order"]:
        assert permission(("dev", "prod"), ("other",)) is Permission.ALLOW


def test_words_that_a_scope_does_not_know_are_refused() -> None:
    for text in ('{"tols": []}', '{"tools": [{"tool": "x", "permission": "maybe"}]}', '{"budget": {"steps": -1}}',
                 '{"tools": [{"tool": "x", "permission": "allow", "when": [{"kind": "moon"}]}]}'):  # fmt: skip
        with pytest.raises(ValidationError):
            AgentScope.model_validate_json(text)


def test_who_is_asked_must_satisfy_both_scopes() -> None:
    both = Asking(policy=Policy(quorum=2)).narrowed(
        Asking(party="finance", policy=Policy(approvers=("ada", "ben"), not_by=("cy",)), within=timedelta(hours=1))
    )
    assert both.policy == Policy(quorum=2, approvers=("ada", "ben"), not_by=("cy",))
    assert (both.party, both.within) == ("finance", timedelta(hours=1))
    with pytest.raises(UsageError, match="no approver in common"):
        Asking(policy=Policy(approvers=("ada",))).narrowed(Asking(policy=Policy(approvers=("ben",))))
    with pytest.raises(UsageError, match="cannot both be satisfied"):
        Asking(policy=Policy(quorum=2)).narrowed(Asking(policy=Policy(approvers=("ben",))))


CHILDRENS = Asking(
    party="friends", policy=Policy(quorum=2, escalate=(Escalation(after=timedelta(days=1), to="friends"),))
)


@pytest.mark.parametrize(
    ("mine", "theirs", "both"),
    [
        (Asking(party="editors"), CHILDRENS, Asking(party="editors", policy=Policy(quorum=2))),
        (
            Asking(policy=Policy(approvers=("ada", "ben"))), CHILDRENS,
            Asking(policy=Policy(quorum=2, approvers=("ada", "ben"))),
        ),
        (
            Asking(policy=Policy(escalate=(Escalation(after=timedelta(days=2), to="managers"),))), CHILDRENS,
            Asking(policy=Policy(quorum=2, escalate=(Escalation(after=timedelta(days=2), to="managers"),))),
        ),
        (Asking(policy=Policy(not_by=("eve",))), CHILDRENS, Asking(
            party="friends", policy=CHILDRENS.policy.model_copy(update={"not_by": ("eve",)}))),  # type: ignore[union-attr]
        (Asking(), CHILDRENS, CHILDRENS),
        (CHILDRENS, Asking(), CHILDRENS),
    ],
)  # fmt: skip
def test_whom_a_narrower_scope_names_is_asked_only_where_the_wider_one_names_nobody(
    mine: Asking, theirs: Asking, both: Asking
) -> None:
    assert mine.narrowed(theirs) == both
    assert mine.narrowed(theirs).narrowed(theirs) == both, "once more changes nothing"


def test_a_narrower_scope_names_nobody_who_may_not_be_of_the_party_that_is_asked() -> None:
    named = Asking(policy=Policy(approvers=("eve",)))
    escalated = Policy(escalate=(Escalation(after=timedelta(days=1), to="managers"),))
    for mine in (Asking(party="editors"), Asking(policy=escalated), Asking(party="editors", policy=Policy(quorum=1))):
        with pytest.raises(UsageError, match="who is of it"):
            mine.narrowed(named)
    both = Asking(party="editors", policy=Policy(approvers=("ada", "eve"))).narrowed(named)
    assert both == Asking(party="editors", policy=Policy(approvers=("eve",)))


@pytest.mark.parametrize(
    ("budget", "spent", "more", "names"),
    [
        (Budget(steps=3), Spent(requests=2, tool_calls=1), {"requests": 1}, "steps"),
        (Budget(steps=4), Spent(requests=2, tool_calls=1), {"requests": 1}, None),
        (Budget(tool_calls=2), Spent(tool_calls=1), {"tool_calls": 2}, "tool_calls"),
        (Budget(tokens=100), Spent(tokens=100), {"requests": 1}, "tokens"),
        (Budget(tokens=100), Spent(unmeasured=1), {"requests": 1}, "tokens"),
        (Budget(money=Decimal(5)), Spent(unmeasured=1), {"requests": 1}, "money"),
        (Budget(money=Decimal("0.5")), Spent(money=Decimal("0.5")), {"requests": 1}, "money"),
        (Budget(money=Decimal(5)), Spent(unpriced=1), {"requests": 1}, "money"),
        (Budget(), Spent(unpriced=1), {"requests": 1}, None),
        (Budget(running=timedelta(seconds=1)), Spent(running=timedelta(seconds=2)), {}, "running"),
        (Budget(wall=timedelta(days=1)), Spent(wall=timedelta(days=1)), {}, "wall"),
    ],
)
def test_budgets(budget: Budget, spent: Spent, more: dict[str, int], names: str | None) -> None:
    found = exhausted(budget, spent, **more)
    assert (found and found[0]) == names
    assert "model requests" in spent.said


@settings(deadline=None, database=None)
@given(BUDGETS, st.builds(Spent, requests=st.integers(0, 9), tool_calls=st.integers(0, 9), tokens=st.integers(0, 9)))
def test_what_is_left_and_what_was_spent_are_no_more_than_the_budget(budget: Budget, spent: Spent) -> None:
    left = left_of(budget, spent)
    for name in Budget.model_fields:
        limit, mine = getattr(budget, name), getattr(left, name)
        assert (limit is None) == (mine is None)
        assert limit is None or 0 <= mine <= max(0, limit - getattr(spent, name))


def test_what_is_left_of_money_cannot_be_told_without_a_price() -> None:
    with pytest.raises(UsageError, match="price of a model request is not known"):
        left_of(Budget(money=Decimal(1)), Spent(unpriced=1))
    assert Budget(steps=1, money=Decimal(2)).raised(Budget(steps=4)) == Budget(steps=5, money=Decimal(2))
