"""Writing a file: below its folder, whole or not at all."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.errors import ToolError, ToolFailed, ToolRefused
from tasks.write_file import write_file


async def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    written = await write_file("reports/week 7.md", "# Å", folder=folder)
    assert (written.path, written.bytes) == ("reports/week 7.md", 4)
    assert (folder / "reports" / "week 7.md").read_text() == "# Å"
    assert await write_file("reports/week 7.md", "# Å", folder=folder) == written
    await write_file("reports/week 7.md", "other", folder=folder)
    assert (folder / "reports" / "week 7.md").read_text() == "other"
    assert [path.name for path in (folder / "reports").iterdir()] == ["week 7.md"], "nothing is left beside it"


@pytest.mark.parametrize(
    "path",
    [
        "", ".", "..", "../x", "a/../../x", "/etc/x", "a//b", "a/", "/", ".hidden", "a/.ssh/x", "a\\..\\x", "a\0b",
        "a\nb", " x", "x ", "~/x/../..", "a/./b", "a" * 101, "/".join("abcdefghi"), "\ud800",
    ],
    ids=range(21),
)  # fmt: skip
async def test_a_path_that_is_not_below_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "out"
    with pytest.raises(ToolError):
        await write_file(path, "x", folder=folder)
    assert list(tmp_path.rglob("*")) in ([], [folder])


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(st.sampled_from("./\\a~\0 \n:é%"), max_size=12))
async def test_no_path_leads_out(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "in" / "out"
    with suppress(ToolError):
        await write_file(path, "x", folder=folder)
    outside = [each for each in tmp_path.rglob("*") if folder not in (each, *each.parents) and each != tmp_path / "in"]
    assert outside == []


async def test_no_link_leads_out(tmp_path: Path) -> None:
    folder, outside = tmp_path / "out", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "kept.md").write_text("kept")
    (folder / "linked").symlink_to(outside)
    (folder / "file.md").symlink_to(outside / "kept.md")
    with pytest.raises(ToolRefused, match="a file or a link"):
        await write_file("linked/new.md", "x", folder=folder)
    await write_file("file.md", "mine", folder=folder)
    assert (outside / "kept.md").read_text() == "kept", "the link was replaced, and not what it led to"
    assert (folder / "file.md").read_text() == "mine"
    assert sorted(path.name for path in outside.iterdir()) == ["kept.md"]


async def test_a_text_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolRefused, match="11 bytes"):
        await write_file("a.md", "x" * 11, folder=tmp_path / "out", most_bytes=10)
    with pytest.raises(ToolRefused, match="half a character"):
        await write_file("a.md", "\ud800", folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


async def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "out" / "a.md").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolFailed, match="cannot be written"):
        await write_file("a.md", "x", folder=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.md"]
    with pytest.raises(ToolFailed, match="folder cannot be used"):
        await write_file("a.md", "x", folder=tmp_path / "file" / "out")
    await write_file("b", "x", folder=tmp_path / "out")
    with pytest.raises(ToolRefused, match="a file or a link"):
        await write_file("b/c", "x", folder=tmp_path / "out")
