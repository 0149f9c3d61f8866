"""What the tests of the upper layer share: recorders for its neighbours, and bytes typed in tables.

A recorder stands where the transport, the service-user or the framer's receiver would, and keeps a list.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from dicomtw.errors import ProtocolError
from dicomtw.ul.framer import Framer
from dicomtw.ul.machine import State
from dicomtw.ul.pdu import ReceivedPDU
from dicomtw.ul.provider import Provider

#: No deadline, for a busy machine fails no test; no database, for a run does not depend on earlier ones.
modest = settings(deadline=None, max_examples=100, database=None)


def octets(table: str) -> bytes:
    """The bytes of a table of hexadecimal digits; what follows a # is a comment."""
    return bytes.fromhex(re.sub("#.*", "", table))


def chunked(stream: bytes) -> st.SearchStrategy[list[bytes]]:
    """`stream` cut anywhere, as a transport may deliver it."""

    def cut(edges: set[int]) -> list[bytes]:
        at = [0, *sorted(edges), len(stream)]
        return [stream[begin:end] for begin, end in pairwise(at)]

    return st.sets(st.integers(1, max(1, len(stream) - 1)), max_size=12).map(cut)


class RecordingReceiver:
    """The framer's receiver: `calls` has one tuple for each call, its name first.

    `wanted` answers whether fragments are; `meanwhile` runs inside the call that it is the name of.
    """

    def __init__(self, maximum_length: int = 16384, *, wanted: bool = True) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.views: list[memoryview] = []
        self.meanwhile: dict[str, Callable[[], None]] = {}
        self.framer = Framer(self, maximum_length)
        self._wanted = wanted

    def _called(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, *arguments))
        self.meanwhile.get(name, lambda: None)()

    def pdu_received(self, pdu: ReceivedPDU) -> None:
        self._called("pdu", pdu)

    def p_data_received(self) -> bool:
        self._called("p_data")
        return self._wanted

    def fragment_received(
        self, context_id: int, control_header: int, data: memoryview, complete: bool
    ) -> None:
        self.views.append(data)
        self._called("fragment", context_id, control_header, bytes(data), complete)

    def fragments_received(self, context_id: int, fragments: list[memoryview]) -> None:
        """As if each had come for itself."""
        for number, fragment in enumerate(fragments):
            if number:
                self.p_data_received()
            self.fragment_received(context_id, 0, fragment, True)

    def invalid_pdu_received(self, fault: ProtocolError) -> None:
        self._called("invalid", fault.reason, str(fault))

    @property
    def joined(self) -> list[tuple[Any, ...]]:
        """`calls` with the parts of one PDV put together: what is left does not depend on the chunks."""
        joined: list[tuple[Any, ...]] = []
        for call in self.calls:
            if call[0] == "fragment" and joined and joined[-1][0] == "fragment" and not joined[-1][4]:
                _, context_id, control_header, data, _ = joined.pop()
                assert (context_id, control_header) == call[1:3], "a PDV changed its header half-way"
                call = ("fragment", context_id, control_header, data + call[3], call[4])
            joined.append(call)
        return joined


class RecordingNeighbours:
    """The transport and the service-user of one provider.

    `calls` has the verbs and primitives in their order, a sent PDU as ``send`` and its bytes in hexadecimal.
    `told` has of each primitive its name, its argument and the state in which the user found the provider.
    `meanwhile` runs inside the primitive that it is the name of.
    """

    def __init__(self, *, is_requestor: bool = False, maximum_length: int = 16384) -> None:
        self.calls: list[str] = []
        self.told: list[tuple[str, Any, State]] = []
        self.fragments: list[tuple[int, int, bytes, bool]] = []
        self.meanwhile: dict[str, Callable[[], None]] = {}
        self.provider = Provider(self, self, is_requestor=is_requestor, maximum_length=maximum_length)

    @property
    def sent(self) -> list[str]:
        """The PDUs sent, in hexadecimal."""
        return [call.removeprefix("send ") for call in self.calls if call.startswith("send ")]

    # -- provider.Transport

    def connect(self) -> None:
        self.calls.append("connect")

    def write(self, data: bytes) -> None:
        self.calls.append(f"send {data.hex(' ')}")

    def write_parts(self, parts: list[bytes | memoryview]) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        self.calls.append("close")

    def start_artim(self) -> None:
        self.calls.append("start_artim")

    def stop_artim(self) -> None:
        self.calls.append("stop_artim")

    # -- provider.User

    def _told(self, primitive: str, argument: Any) -> None:
        self.calls.append(primitive)
        self.told.append((primitive, argument, self.provider.state))
        self.meanwhile.get(primitive, lambda: None)()

    def associate_indication(self, pdu: Any) -> None:
        self._told("associate_indication", pdu)

    def associate_confirmation_accept(self, pdu: Any) -> None:
        self._told("associate_confirmation_accept", pdu)

    def associate_confirmation_reject(self, pdu: Any) -> None:
        self._told("associate_confirmation_reject", pdu)

    def data_indication(self, pdu: Any) -> None:
        self._told("data_indication", pdu)

    def release_indication(self, pdu: Any) -> None:
        self._told("release_indication", pdu)

    def release_confirmation(self, pdu: Any) -> None:
        self._told("release_confirmation", pdu)

    def abort_indication(self, pdu: Any) -> None:
        self._told("abort_indication", pdu)

    def p_abort_indication(self, cause: Any) -> None:
        self._told("p_abort_indication", cause)

    def fragment_received(
        self, context_id: int, control_header: int, data: memoryview, complete: bool
    ) -> None:
        self.fragments.append((context_id, control_header, bytes(data), complete))
        self.meanwhile.get("fragment_received", lambda: None)()

    def fragments_received(self, context_id: int, fragments: list[memoryview]) -> None:
        """As if each had come for itself."""
        for fragment in fragments:
            self.fragment_received(context_id, 0, fragment, True)
