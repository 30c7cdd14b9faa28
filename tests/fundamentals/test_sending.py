"""An agent's message goes through the notification blocks of its party, and to nobody else."""

from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
from prefect.blocks.abstract import NotificationBlock
from prefect.context import SettingsContext

from standby.notices import NotificationChannels
from tasks.errors import ToolFailed, ToolRefused
from tasks.send_message import Sent, send_message
from tests.fundamentals.conftest import Desk

sent: list[tuple[str, str | None, str]] = []


class Courier(NotificationBlock):
    """A channel of this test: what it carries lands in ``sent``; one to ``nowhere`` fails."""

    _block_type_name: ClassVar[str] = "Courier"
    _block_type_slug: ClassVar[str] = "courier"
    to: str

    async def notify(self, body: str, subject: str | None = None) -> None:
        if self.to == "nowhere":
            raise ConnectionError("nobody at https://hooks.example/its-secret")
        sent.append((self.to, subject, body))


@pytest.fixture(autouse=True)
async def channels(desk: Desk, prefect_settings: SettingsContext) -> AsyncIterator[None]:
    sent.clear()
    with prefect_settings.model_copy():
        for name in ("editor", "desk", "nowhere"):
            await Courier(to=name).asave(f"tool-{name}", overwrite=True)
        known: Any = {
            "readers": ["courier/tool-editor", "courier/tool-desk"],
            "lost": ["courier/tool-nowhere"],
            "gone": ["courier/never-made"],
            "*": ["courier/tool-desk"],
        }
        await NotificationChannels(channels=known).asave("default", overwrite=True)
        yield
        await NotificationChannels.adelete("default")


async def test_a_message_goes_to_each_channel_of_its_party() -> None:
    told = await send_message("readers", "The  week\nin brief", "**All** is well.")
    assert told == Sent(to="readers", through=["courier/tool-editor", "courier/tool-desk"])
    assert sent == [(to, "The week in brief", "**All** is well.") for to in ("editor", "desk")]


async def test_what_is_refused_is_sent_to_nobody() -> None:
    for to, subject, body in (
        ("strangers", "s", "b"), ("*", "s", "b"), ("", "s", "b"), ("readers", " ", "b"), ("readers", "s", "\n"),
        ("readers", "s" * 201, "b"), ("readers", "s", "b" * 20_001),
    ):  # fmt: skip
        with pytest.raises(ToolRefused):
            await send_message(to, subject, body)
    assert sent == []


async def test_a_channel_that_does_not_take_it_is_named() -> None:
    """Not what its library says: there may be the address of a webhook in it, which is a secret."""
    for to, why in (
        ("lost", "courier/tool-nowhere did not take it (ConnectionError)"),
        ("gone", "courier/never-made did not take it (There is no block courier/never-made"),
    ):
        with pytest.raises(ToolFailed) as caught:
            await send_message(to, "s", "b")
        assert why in str(caught.value)
        assert "secret" not in str(caught.value)
