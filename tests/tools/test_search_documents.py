"""Searching a folder of documents, and reading one of them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tasks.errors import ToolFailed, ToolRefused
from tasks.search_documents import PASSAGE, read_document, search_documents


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STANDBY_HOME", str(tmp_path / "home"))
    folder = tmp_path / "documents"
    (folder / "deep").mkdir(parents=True)
    (folder / "ships.md").write_text("# Ships\n\nThe ferry to Ålesund sails on Tuesday.\n\nThe other one never sails.")
    (folder / "trains.txt").write_text("Trains run hourly. There is no ferry here, and nothing sails.")
    (folder / "deep" / "page.html").write_text("<title>x</title><p>The night ferry</p><script>ferry()</script>")
    (folder / "picture.png").write_bytes(b"ferry")
    return folder


async def paths(query: str, folder: Path) -> list[str]:
    return [found.path for found in await search_documents(query, folder=folder)]


async def test_the_passage_that_fits_best_comes_first(folder: Path) -> None:
    found = await search_documents("which ferry sails to alesund", folder=folder)
    assert found[0].path == "ships.md"
    assert "Ålesund" in found[0].text
    assert {each.path for each in found} == {"ships.md", "trains.txt", "deep/page.html"}
    assert all("ferry()" not in each.text for each in found)
    assert await search_documents("submarine", folder=folder) == []
    assert len(await search_documents("ferry", folder=folder, most=1)) == 1


async def test_what_is_new_changed_or_gone_is_noticed(folder: Path) -> None:
    assert await paths("zeppelin", folder) == []
    (folder / "air.md").write_text("A zeppelin.")
    assert await paths("zeppelin", folder) == ["air.md"]
    (folder / "air.md").write_text("A balloon, no more.")
    assert await paths("zeppelin", folder) == []
    assert await paths("balloon", folder) == ["air.md"]
    (folder / "air.md").unlink()
    assert await paths("balloon", folder) == []


async def test_searches_at_the_same_time_find_the_same(folder: Path) -> None:
    found = await asyncio.gather(*(paths("ferry", folder) for _ in range(5)))
    assert all(each == found[0] for each in found)
    assert len(found[0]) == 3


@pytest.mark.parametrize("query", ['"', "ferry OR", "NEAR(", "path:ships", "fer*", "ferry AND NOT", "-ferry", "a\0b"])
async def test_a_query_is_words_and_no_language(folder: Path, query: str) -> None:
    try:
        assert set(await paths(query, folder)) <= {"ships.md", "trains.txt", "deep/page.html"}
    except ToolRefused as error:
        assert "no word" in str(error)  # noqa: PT017


async def test_long_documents_are_searched_by_passage(folder: Path) -> None:
    (folder / "long.txt").write_text("\n\n".join(f"Paragraph {n} {'la ' * 100}" for n in range(40)) + "\n\nneedle")
    (folder / "line.txt").write_text("x" * 10 * PASSAGE + " needle")
    found = await search_documents("needle", folder=folder)
    assert sorted(each.path for each in found) == ["line.txt", "long.txt"]
    assert all(len(each.text) <= 2 * PASSAGE for each in found)
    assert all(each.place > 1 for each in found)


async def test_links_out_of_the_folder_are_not_followed(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret ferry")
    (folder / "link.txt").symlink_to(secret)
    (folder / "loop.txt").symlink_to(folder / "loop.txt")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "other.txt").write_text("a secret ferry")
    (folder / "linked").symlink_to(tmp_path / "outside")
    (folder / "inner.txt").symlink_to(folder / "trains.txt")
    assert await paths("secret", folder) == []
    assert "inner.txt" in await paths("hourly", folder)
    for path in ("link.txt", "loop.txt", "linked/other.txt", "../secret.txt", str(secret), "", "deep", "picture.png",
                 "a\0.txt", "none.txt"):  # fmt: skip
        with pytest.raises(ToolRefused, match="no document of the folder"):
            await read_document(path, folder=folder)


async def test_a_document_is_read_in_parts(folder: Path) -> None:
    (folder / "long.txt").write_text("0123456789" * 5)
    first = await read_document("long.txt", folder=folder, most_characters=30)
    assert (first.text, first.next) == ("0123456789" * 3, 30)
    rest = await read_document("long.txt", folder=folder, start=30, most_characters=30)
    assert (rest.text, rest.next) == ("0123456789" * 2, None)
    assert (await read_document("deep/page.html", folder=folder)).text == "The night ferry"


async def test_names_that_are_no_text_are_passed_over(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.txt")).write_text("ferry")
    assert len(await paths("ferry", folder)) == 3


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolFailed, match="no such folder"):
        await search_documents("ferry", folder=tmp_path / "none")
    with pytest.raises(ToolFailed, match="no such folder"):
        await read_document("a.txt", folder=tmp_path / "none")
