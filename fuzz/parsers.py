"""Targets without a database or a server: PDUs, messages, data sets, text, the head of a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dicomtw import uids
from dicomtw.dimse import writer
from dicomtw.dimse.command import CommandSet, decode_values
from dicomtw.dimse.messages import Command
from dicomtw.dimse.reader import MessageReader
from dicomtw.encoding import character_sets, data_set, dictionary
from dicomtw.encoding.data_set import DataSet, Element
from dicomtw.errors import ProtocolError, UnreadableDataSet
from dicomtw.storage import header
from dicomtw.storage.index.attributes import Attributes
from dicomtw.storage.part10 import FileMeta, read_head
from dicomtw.ul.framer import Framer
from dicomtw.ul.machine import State
from dicomtw.ul.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ, ReceivedPDU
from dicomtw.ul.provider import Provider

MAXIMUM_LENGTH = 1024

#: One for each way to encode a data set.
SYNTAXES = (
    uids.IMPLICIT_VR_LITTLE_ENDIAN,
    uids.EXPLICIT_VR_LITTLE_ENDIAN,
    uids.EXPLICIT_VR_BIG_ENDIAN,
    uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
)
INDEXED = Attributes().tags


def syntax_of(choice: int) -> str:
    return SYNTAXES[choice % len(SYNTAXES)]


# -- PDUs: the first byte says how the rest is cut, and what for


class _Calls:
    """A receiver of a framer that keeps what it is told; parts of a PDV are put together."""

    def __init__(self, wanted: bool) -> None:
        self.calls: list[Any] = []
        self.fault: ProtocolError | None = None
        self._wanted = wanted
        self._partial = b""

    def pdu_received(self, pdu: ReceivedPDU) -> None:
        self._add(pdu)

    def p_data_received(self) -> bool:
        self._add("P-DATA")
        return self._wanted

    def fragment_received(
        self, context_id: int, control_header: int, data: memoryview, complete: bool
    ) -> None:
        if not self._wanted:
            return  # it is passed over
        self._partial += data
        assert len(self._partial) <= MAXIMUM_LENGTH
        if complete:
            self._add((context_id, control_header, self._partial))
            self._partial = b""

    def fragments_received(self, context_id: int, fragments: list[memoryview]) -> None:
        """As if each had come for itself."""
        for number, fragment in enumerate(fragments):
            if number:
                self._add("P-DATA")
            self.fragment_received(context_id, 0, fragment, True)

    def invalid_pdu_received(self, fault: ProtocolError) -> None:
        self._add((fault.reason, str(fault)))
        self.fault = fault

    def _add(self, call: object) -> None:
        assert self.fault is None, "the framer goes on after an invalid PDU"
        self.calls.append(call)


def chunks_of(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)] if size else [data]


def framer(data: bytes) -> None:
    """PS3.8 9.3: the same comes out however the stream is cut, and PDUs are encoded as they were meant."""
    wanted, size, stream = not data[0] & 1, data[0] >> 1, data[1:]
    outcomes = []
    for chunks in ([stream], chunks_of(stream, size)):
        calls = _Calls(wanted)
        cutter = Framer(calls, MAXIMUM_LENGTH)
        for chunk in chunks:
            cutter.receive(chunk)
        outcomes.append((calls.calls, cutter.odd_lengths, calls.fault or cutter.mid_pdu))
    (whole, *rest), (cut, *_) = outcomes
    assert whole == cut, "chunks make a difference"
    assert isinstance(rest[1], ProtocolError) or rest == list(outcomes[1][1:])
    for pdu in whole:
        if not isinstance(pdu, (str, tuple)):
            encoded = pdu.encode()
            assert type(pdu).decode(encoded[6:]) == pdu, "encoded, it means something else"
            assert str(pdu) and repr(pdu)


class _Neighbours:
    """The transport and the service-user of a provider; it answers everything."""

    def __init__(self, is_requestor: bool) -> None:
        self.provider = Provider(self, self, is_requestor=is_requestor, maximum_length=MAXIMUM_LENGTH)
        self.closed = False
        self.over = False
        self.artim = False

    def connect(self) -> None:
        assert self.provider.state == State.Sta1

    def write_parts(self, parts: list[bytes | memoryview]) -> None:
        self.write(b"".join(parts))

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after it was closed"
        sent = _Calls(True)
        Framer(sent, 0).receive(data)
        assert sent.fault is None, f"an invalid PDU is sent: {sent.fault}"

    def close(self) -> None:
        self.closed = True

    def start_artim(self) -> None:
        self.artim = True

    def stop_artim(self) -> None:
        self.artim = False

    def associate_indication(self, rq: A_ASSOCIATE_RQ) -> None:
        self.provider.associate_response(A_ASSOCIATE_AC(rq.called_ae_title, rq.calling_ae_title))

    def associate_confirmation_accept(self, ac: A_ASSOCIATE_AC) -> None:
        assert self.provider.state == State.Sta6

    def associate_confirmation_reject(self, rj: object) -> None:
        self.over = True

    def data_indication(self, pdu: object) -> None:
        assert self.provider.state in (State.Sta6, State.Sta7)

    def fragment_received(
        self, context_id: int, control_header: int, data: memoryview, complete: bool
    ) -> None:
        assert self.provider.state in (State.Sta6, State.Sta7)
        if context_id == 0xFF:
            raise ProtocolError("refused by the user")

    def fragments_received(self, context_id: int, fragments: list[memoryview]) -> None:
        self.fragment_received(context_id, 0, fragments[0], True)
        if context_id == 0xFD:
            self.provider.abort_request("by the user")
        if context_id == 0xFB and self.provider.state == State.Sta6:
            self.provider.release_request()

    def release_indication(self, pdu: object) -> None:
        if self.provider.state != State.Sta10:  # there our turn comes with the confirmation
            self.provider.release_response()

    def release_confirmation(self, pdu: object) -> None:
        if self.provider.state == State.Sta12:
            self.provider.release_response()
        self.over = True

    def abort_indication(self, pdu: object) -> None:
        self.over = True

    def p_abort_indication(self, cause: object) -> None:
        self.over = True


def provider(data: bytes) -> None:
    """PS3.8 Table 9-10: bytes, whatever they are, leave the machine in a state that can end in Sta1."""
    is_requestor, size, stream = bool(data[0] & 1), data[0] >> 1, data[1:]
    neighbours = _Neighbours(is_requestor)
    machine: Any = neighbours.provider  # its state changes behind each call
    if is_requestor:
        machine.associate_request(A_ASSOCIATE_RQ("PMOD", "SCU"))
        machine.connection_confirmation()
        assert machine.state == State.Sta5
    else:
        machine.connection_indication()
        assert machine.state == State.Sta2
    for chunk in chunks_of(stream, size):
        machine.bytes_received(chunk)
        # ARTIM runs where nothing but the peer could end the state (PS3.8 9.1.4).
        assert neighbours.artim == (machine.state in (State.Sta2, State.Sta13))
        assert not neighbours.over or machine.state in (State.Sta1, State.Sta13)
    if machine.state in (State.Sta2, State.Sta13):
        machine.artim_expired()
        assert machine.state == State.Sta1 and neighbours.closed
    machine.connection_closed()
    assert machine.state == State.Sta1


# -- command sets and messages


def command(data: bytes) -> None:
    """PS3.7 6.3, Annex E: a command set is encoded as it was meant, and comes through P-DATA."""
    try:
        values = decode_values(data)
    except ProtocolError:
        return
    encoded = CommandSet(values).encode()
    assert decode_values(encoded) == values
    try:
        decoded = Command.decode(data)
    except ProtocolError:
        return
    assert repr(decoded) and isinstance(decoded.sop_class_uid, str)
    assert Command.decode(encoded) == decoded
    messages = _Messages()
    stream = writer.command_pdus(1, encoded, 64)
    Framer(_Joined(MessageReader({1}, messages)), 64).receive(stream)
    assert messages.commands == [decoded]


class _Messages:
    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.open = False

    def command_received(self, context_id: int, command: Command) -> None:
        assert not self.open and context_id in (1, 3)
        self.open = True
        self.commands.append(command)

    def data_received(self, fragments: list[memoryview]) -> None:
        assert self.open and self.commands[-1].has_data_set

    def message_ended(self) -> None:
        assert self.open
        self.open = False


class _Joined:
    """A framer's receiver that hands fragments on."""

    def __init__(self, reader: MessageReader) -> None:
        self.fragment_received = reader.fragment_received
        self.fragments_received = reader.fragments_received

    def pdu_received(self, pdu: ReceivedPDU) -> None:
        raise AssertionError(pdu)

    def p_data_received(self) -> bool:
        return True

    def invalid_pdu_received(self, fault: ProtocolError) -> None:
        raise AssertionError(fault)


def reader(data: bytes) -> None:
    """PS3.8 Annex E: fragments (context ID, control header, length, data) make messages, or a fault."""
    messages = _Messages()
    joined = MessageReader({1, 3}, messages)
    at = 0
    while at + 3 <= len(data):
        context_id, control, length = data[at : at + 3]
        fragment = memoryview(data)[at + 3 : at + 3 + length]
        at += 3 + length
        try:
            joined.fragment_received(context_id, control, fragment, not control & 4)
        except ProtocolError:
            return
        if messages.open:
            assert joined.mid_message


# -- data sets: the first byte is the transfer syntax


def head_of_data_set(data: bytes) -> None:
    """PS3.5 Section 7: the header is found however it is read, and as decoding the whole finds it."""
    transfer_syntax, cut, encoded = syntax_of(data[0]), data[0] >> 2, data[1:]
    reads = 0

    def read_at(offset: int, length: int) -> bytes:
        nonlocal reads
        reads += 1
        return encoded[offset : offset + length]

    found = _found(read_at, transfer_syntax, encoded, len(encoded))
    assert found == _found(read_at, transfer_syntax, encoded[:cut], len(encoded))
    assert reads <= 2 * header.MAXIMUM_ELEMENTS
    if not isinstance(found, dict):
        return
    assert all(len(value) <= header.MAXIMUM_VALUE for value in found.values())
    header.uid_value(found.get(header.SOP_INSTANCE_UID))
    try:
        elements = data_set.decode(encoded, transfer_syntax)
    except UnreadableDataSet:
        return
    if transfer_syntax == uids.EXPLICIT_VR_BIG_ENDIAN or encoded != data_set.encode(
        elements.values(), transfer_syntax
    ):
        return  # values are not as they are there, or tags are twice or out of order
    expected = {tag: elements[tag].value for tag in INDEXED | header.NAMING if tag in elements}
    assert found.keys() == expected.keys()
    for tag, value in expected.items():
        assert found[tag] == value or not isinstance(value, bytes)


def _found(
    read_at: Callable[[int, int], bytes], transfer_syntax: str, head: bytes, size: int
) -> dict[int, bytes] | str:
    try:
        return header.find_naming_elements(read_at, transfer_syntax, INDEXED, head, size)
    except UnreadableDataSet as fault:
        return str(fault)


def whole_data_set(data: bytes) -> None:
    """PS3.5 Section 7, Annex A: a data set is encoded as it was meant, in either byte order."""
    transfer_syntax = syntax_of(data[0])
    try:
        elements = data_set.decode(data[1:], transfer_syntax)
    except UnreadableDataSet:
        return
    assert list(elements) == sorted(elements)
    others = (uids.EXPLICIT_VR_BIG_ENDIAN,) if transfer_syntax != uids.IMPLICIT_VR_LITTLE_ENDIAN else ()
    for syntax in (transfer_syntax, *others):
        again = data_set.decode(data_set.encode(elements.values(), syntax), syntax)
        implicit = syntax == uids.IMPLICIT_VR_LITTLE_ENDIAN
        assert _comparable(again, implicit) == _comparable(elements, implicit)


def _comparable(elements: DataSet, implicit: bool) -> dict[int, object]:
    """Without the padding, and in Implicit VR the sequences that only an undefined length gives away."""
    comparable: dict[int, object] = {}
    for tag, element in elements.items():
        if isinstance(element.value, tuple):
            known = dictionary.lookup(tag)
            if not implicit or (known is not None and known.vr == "SQ"):
                comparable[tag] = [_comparable(item, implicit) for item in element.value]
        elif not implicit or element.value[:4] != b"\xfe\xff\x00\xe0":
            padding = b" " if element.vr in data_set._PADDED_WITH_SPACE else b"\0"
            comparable[tag] = Element(tag, element.vr, element.value + padding * (len(element.value) % 2))
    return comparable


# -- text and files


def text(data: bytes) -> None:
    """PS3.5 6.1: any text is decoded and fits some character set, from which it comes back.

    The first byte is twice the length of the Specific Character Set, and one more for names.
    """
    is_person_name, length = bool(data[0] & 1), data[0] >> 1
    terms = character_sets.terms_of(data[1 : 1 + length])
    value = data[1 + length :]
    decoded = character_sets.decode(value, terms, is_person_name=is_person_name)
    assert len(decoded) <= len(value) and "\x1b" not in decoded
    decoded.encode("utf-8")
    fitting = character_sets.fitting([decoded], terms)
    assert fitting in ((), terms, ("ISO_IR 100",), ("ISO_IR 192",))
    encoded = character_sets.encode(decoded, fitting, is_person_name=is_person_name)
    assert len(encoded) <= 16 * len(decoded)
    assert character_sets.decode(encoded, fitting, is_person_name=is_person_name) == decoded


def file_head(data: bytes) -> None:
    """PS3.10 Section 7: File Meta Information is read, or it is none; what we write of it reads the same."""
    try:
        head = read_head(data)
    except ValueError:
        return
    assert 0 < head.data_set_offset <= len(data) and head.transfer_syntax_uid
    written = [head.sop_class_uid, head.sop_instance_uid, head.transfer_syntax_uid]
    encoded = FileMeta(*written).encode()
    again = read_head(encoded + b"\x08\0")
    assert again.data_set_offset == len(encoded)
    said = again.sop_class_uid, again.sop_instance_uid, again.transfer_syntax_uid
    assert said == tuple(uid.encode("ascii", "replace").decode() for uid in written)
