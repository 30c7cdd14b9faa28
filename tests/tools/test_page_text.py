"""The text of a page, whatever state the page is in."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks import page_text as module
from tasks.page_text import page_text

HERE = "https://example.org/a/b"


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("a < b and c > d", "a < b and c > d"),
        ("<p>one<p>two", "one\ntwo"),
        ("a<!-- <p>no</p> -->b", "ab"),
        ("a<!-- never closed <p>no", "a"),
        ("a<script>if (1 < 2) '</p>'</script>b", "ab"),
        ("a<SCRIPT>no</Script >b", "ab"),
        ("a<style>never closed", "a"),
        ("<p title=\"a > b\" class='c'>said</p>", "said"),
        ("<table><tr><td>1<td>2<tr><td>3<td>4</table>", "| 1 | 2\n| 3 | 4"),
        ("fish &amp; chips &lt;3 &#8364; &#x20AC; &nosuch;", "fish & chips <3 € € &nosuch;"),
        ("a&#99999999999999999999;b&#xFFFFFFFFFF;c", "a;b;c"),
        ("x\x00y <![CDATA[ z ]]> <?php w ?>", "xy"),
        ("a   b\t\tc\n\n\n\nd", "a b c\n\nd"),
        ("İ<script>no</script>İ", "İİ"),
    ],
)
def test_what_is_read(html: str, text: str) -> None:
    found = page_text(html, HERE).text
    assert " ".join(found.split()) == " ".join(text.split())


def test_links_are_made_whole_and_only_those_over_http_are_kept() -> None:
    html = (
        '<a href="c">one</a><a href="javascript:x()">two</a><a name="n">three</a><a href="//e.com/?a=1&amp;b=2">four'
        '<a href=http://f.com>five</a><a href="http://[bad">six</a>'
    )
    found = [(link.text, link.url) for link in page_text(html, HERE).links]
    assert found == [("one", "https://example.org/a/c"), ("four", "https://e.com/?a=1&b=2"), ("five", "http://f.com")]


@pytest.mark.parametrize("piece", ["<", "<a ", '<a b="', "<a b='", "<div>", "<!--", "<![", "</", "&", "&#9", "<script>",
                                   "<a href=x>", "<b <", "<a b=", "a/ ", "<a / ", "<td>", "<li>"])  # fmt: skip
def test_a_hostile_page_is_looked_at_once(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times as much of it takes about ten times as many looks at it, and not a hundred."""
    looks = 0

    class Counted:
        def __init__(self, pattern: object) -> None:
            self.pattern = pattern

        def match(self, text: str, at: int) -> object:
            nonlocal looks
            found = self.pattern.match(text, at)  # type: ignore[attr-defined]
            looks += 1 if found is None else found.end() - at + 1
            return found

    monkeypatch.setattr(module, "_NAME", Counted(module._NAME))
    monkeypatch.setattr(module, "_ATTRIBUTE", Counted(module._ATTRIBUTE))
    counts = []
    for times in (300, 3000):
        looks = 0
        page_text(piece * times, HERE)
        counts.append(looks)
    assert counts[1] <= 11 * counts[0] + 100, counts


@given(st.text(st.sampled_from("<>/='\"!-&#; abpscriptstylehref\n\x00İ"), max_size=200))
@example("<script")
def test_any_text_is_got_along_with(html: str) -> None:
    found = page_text(html, HERE)
    assert "\x00" not in found.text
    assert len(found.text) <= 4 * len(html)
