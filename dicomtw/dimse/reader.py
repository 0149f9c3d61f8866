"""Fragments in, messages out (PS3.8 Annex E; PS3.7 6.3): commands decoded, data sets passed on unread."""

from __future__ import annotations

from collections.abc import Container
from typing import Protocol

from dicomtw.dimse.messages import Command
from dicomtw.errors import ProtocolError
from dicomtw.ul.pdu import COMMAND, LAST

#: The longest command set we gather, in bytes; the longest that PS3.7 can make is under 1 KiB but for
#: lists of attribute tags.
MAXIMUM_COMMAND_LENGTH = 1 << 16
#: The most parts that it comes in: two bytes each, and each of those in two chunks.
MAXIMUM_FRAGMENTS = 1 << 16


class MessageReceiver(Protocol):
    """Whom a `MessageReader` tells what came in."""

    def command_received(self, context_id: int, command: Command) -> None:
        """A message has begun."""

    def data_received(self, fragments: list[memoryview]) -> None:
        """Parts of the data set of the message that has begun."""

    def message_ended(self) -> None:
        """The message is complete, with the data set if it has one."""


class MessageReader:
    """Puts together the messages of one association; `contexts` are the accepted context IDs.

    A message's fragments come one after the other, all of one presentation context, command before data
    set (PS3.8 E.2): whatever else is a `ProtocolError`.
    """

    __slots__ = ("_command", "_context_id", "_contexts", "_fragments", "_in_data_set", "_receiver")

    def __init__(self, contexts: Container[int], receiver: MessageReceiver) -> None:
        self._contexts = contexts
        self._receiver = receiver
        self._context_id = 0  # of the message that has begun; no context has ID 0
        self._command = bytearray()
        self._fragments = 0
        self._in_data_set = False

    @property
    def mid_message(self) -> bool:
        """Whether a message has begun and not ended."""
        return bool(self._context_id)

    def fragment_received(
        self, context_id: int, control_header: int, data: memoryview, complete: bool
    ) -> None:
        """Part of a PDV; `complete`: it ends here. Bits 2 to 7 of the header are not significant."""
        if context_id != self._context_id or not context_id:
            self._begin(context_id)
        if self._in_data_set:
            if control_header & COMMAND:
                raise ProtocolError("command fragment inside a data set")
            self._receiver.data_received([data])
            if complete and control_header & LAST:
                self._in_data_set = False
                self._context_id = 0
                self._receiver.message_ended()
        else:
            if not control_header & COMMAND:
                raise ProtocolError("data set fragment where a command is due")
            self._fragments += 1
            if len(self._command) + len(data) > MAXIMUM_COMMAND_LENGTH or self._fragments > MAXIMUM_FRAGMENTS:
                raise ProtocolError("command set that does not end")
            self._command += data
            if complete and control_header & LAST:
                self._end_of_command()

    def fragments_received(self, context_id: int, fragments: list[memoryview]) -> None:
        """Whole PDVs of a data set that goes on behind them."""
        if context_id == self._context_id and self._in_data_set:
            self._receiver.data_received(fragments)
        else:  # which is a fault
            self.fragment_received(context_id, 0, fragments[0], True)

    def _begin(self, context_id: int) -> None:
        if self._context_id:
            raise ProtocolError(
                f"fragment in presentation context {context_id} inside a message in {self._context_id}"
            )
        if context_id not in self._contexts:
            raise ProtocolError(f"presentation context {context_id} is not accepted")
        self._context_id = context_id

    def _end_of_command(self) -> None:
        command = Command.decode(bytes(self._command))
        self._command = bytearray()
        self._fragments = 0
        context_id = self._context_id
        self._in_data_set = command.has_data_set
        if not self._in_data_set:
            self._context_id = 0
        self._receiver.command_received(context_id, command)
        if not self._in_data_set:
            self._receiver.message_ended()
