"""Where the terminal finds the ledger while the Prefect server that could say so does not answer."""

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from standby import connect, doctor
from standby.ledger import Ledger
from standby.terminal import no_answer


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A Prefect server that takes connections and says nothing, as one that was stopped; nothing else is told."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
        monkeypatch.setenv("PREFECT_API_URL", url)
        monkeypatch.setenv("STANDBY_HOME", str(tmp_path))
        monkeypatch.delenv("STANDBY_LEDGER_URL", raising=False)
        monkeypatch.setattr(connect, "ASK_SECONDS", 0.2)
        yield url


@pytest.mark.parametrize("is_gone", [False, True])
async def test_what_names_the_ledger_is_said_when_prefect_does_not_answer(
    silent: str, monkeypatch: pytest.MonkeyPatch, is_gone: bool
) -> None:
    """The data folder's may be another one: nothing is answered there that was not asked there."""
    if is_gone:
        silent = "http://127.0.0.1:9/api"
        monkeypatch.setenv("PREFECT_API_URL", silent)
    with pytest.raises(ConnectionError, match=f"{re.escape(silent)}.*set STANDBY_LEDGER_URL") as raised:
        async with asyncio.timeout(5):
            await connect.here()
    # Who has started it, and asks too much of it, is not to start another.
    assert ("Start it" in str(raised.value), "it is slow or busy. Try again." in str(raised.value)) == (
        is_gone,
        not is_gone,
    )


@pytest.mark.parametrize("is_gone", [False, True])
async def test_the_doctor_tells_a_server_that_is_slow_from_one_that_is_away(
    silent: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_gone: bool
) -> None:
    monkeypatch.setattr(doctor, "ASK_SECONDS", 0.2)
    ledger = await Ledger.connect(f"sqlite:///{tmp_path / 'ledger.db'}")
    try:
        async with connect.open_prefect("http://127.0.0.1:9/api" if is_gone else silent) as client:
            [found] = await doctor.audit(ledger, client)
    finally:
        await ledger.close()
    assert ("Start it" in found.remedy, "does not answer in time" in found.problem) == (is_gone, not is_gone)


def test_a_command_that_prefect_does_not_answer_in_time_does_not_say_to_start_it(silent: str) -> None:
    said = no_answer(httpx.ReadTimeout(""))
    assert said.startswith(f"The Prefect server at {silent} takes connections and did not answer in time: ")
    assert "Start it" in no_answer(httpx.ConnectTimeout(""))


async def test_the_ledger_of_the_up_of_this_folder_is_known_without_asking_its_server(
    silent: str, tmp_path: Path
) -> None:
    (tmp_path / "up.json").write_text(json.dumps({"api_url": silent, "ledger_url": "sqlite:////its/ledger.db"}))
    async with asyncio.timeout(5):
        assert await connect.here() == connect.Place("sqlite:////its/ledger.db", silent)
