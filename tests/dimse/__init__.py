"""What the tests of DIMSE share: whom a `MessageReader` tells."""

from __future__ import annotations

from typing import Any

from dicomtw.dimse.messages import Command


class RecordingMessages:
    """A `MessageReceiver` that keeps what came in.

    `ended` has of each complete message its context ID, its command and its data set (None: it has none);
    `calls` the names of the calls in their order.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.ended: list[tuple[int, Command, bytes | None]] = []
        self._begun: tuple[int, Command] | None = None
        self._data = bytearray()

    def command_received(self, context_id: int, command: Command) -> None:
        assert self._begun is None, "a message begins inside another"
        self.calls.append("command")
        self._begun = (context_id, command)

    def data_received(self, fragments: list[memoryview]) -> None:
        assert self._begun is not None, "data outside a message"
        self.calls.append("data")
        self._data += b"".join(fragments)

    def message_ended(self) -> None:
        assert self._begun is not None, "a message ends that has not begun"
        self.calls.append("ended")
        context_id, command = self._begun
        data: Any = bytes(self._data) if command.has_data_set else None
        self.ended.append((context_id, command, data))
        self._begun = None
        self._data.clear()
