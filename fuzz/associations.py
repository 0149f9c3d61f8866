"""The target that is a whole server: a peer's side of an association, played from a script of bytes."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from zope.interface import implementer

from dicomtw import uids
from dicomtw.dimse.messages import C_ECHO_RQ, C_ECHO_RSP, MESSAGE_TYPES, Command, DataSet, MessageType
from dicomtw.services.query import Query
from dicomtw.services.storage import Storage
from dicomtw.services.verification import Verification
from dicomtw.storage.part10 import FileMeta
from dicomtw.testing import MemoryServer, MemoryStore, MemoryStoreSink, Peer, message
from dicomtw.ul.items import AsynchronousOperationsWindow, SOPClassExtendedNegotiation
from dicomtw.ul.machine import State
from dicomtw.ul.pdu import A_ASSOCIATE_AC, A_RELEASE_RQ, P_DATA_TF, PresentationDataValue
from fuzz.queries import archive

_CT = "1.2.840.10008.5.1.4.1.1.2"
CONTEXTS: Final = {
    1: (uids.VERIFICATION, uids.IMPLICIT_VR_LITTLE_ENDIAN),
    3: (_CT, uids.EXPLICIT_VR_LITTLE_ENDIAN),
    5: (uids.STUDY_ROOT_FIND, uids.EXPLICIT_VR_LITTLE_ENDIAN),
    7: (uids.PATIENT_ROOT_FIND, uids.IMPLICIT_VR_LITTLE_ENDIAN),
    9: (_CT, uids.EXPLICIT_VR_BIG_ENDIAN),
    11: (uids.PATIENT_STUDY_ONLY_FIND, uids.EXPLICIT_VR_BIG_ENDIAN),
}
_MESSAGES: Final = sorted(MESSAGE_TYPES.values(), key=lambda message_type: message_type.command_field)

#: First byte of a script: what there is before its steps.
ESTABLISHED, WINDOW, RELATIONAL, SHORT_PDUS = 1, 2, 4, 8

#: Steps. The byte behind `BYTES` is the length of what is sent as it is; those behind `MESSAGE` are context
#: ID, which message, message ID, flags and the length of its data set; behind `FRAGMENT` context ID, control
#: header and length; behind `WAIT` half seconds. What is sent gets to the server with the next `CHUNK`.
BYTES, MESSAGE, CHUNK, WAIT, PAUSE, RELEASE, FRAGMENT, STEPS = range(8)

#: Flags of a message: it says of its data set what is not so; its SOP class is not the context's.
LIES, OTHER_CLASS = 1, 2

_ECHO_ID = 0xBEEF
#: Longer than any timer, in seconds.
_LONG: Final = 60.0
_ROUNDS: Final = 30


class _Store(MemoryStore):
    """Knows how many data sets are begun and not over."""

    def __init__(self) -> None:
        super().__init__()
        self.sinks: list[MemoryStoreSink] = []

    def open(self, meta: FileMeta) -> MemoryStoreSink:
        self.sinks.append(super().open(meta))
        return self.sinks[-1]


class _Settled:
    def settled(self) -> Deferred[None]:
        return succeed(None)


@cache
def _bugs() -> list[Any]:
    """What is logged as a bug, from the first call on."""
    bugs: list[Any] = []

    @implementer(ILogObserver)
    def see(event: LogEvent) -> None:
        if "log_failure" in event or event.get("log_level") is LogLevel.critical:
            bugs.append(event)

    globalLogPublisher.addObserver(see)
    return bugs


class _Script:
    """The bytes of a script, read step by step; zeros at its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def over(self) -> bool:
        return self._at >= len(self._data)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def bytes(self, length: int) -> bytes:
        self._at += length
        return self._data[self._at - length : self._at]


def association(data: bytes) -> None:
    """PS3.8, PS3.7: whatever a peer does, the server answers it, aborts or waits until a timer ends.

    Afterwards nothing of the association is left: no timer, no open file, and others are served.
    """
    bugs = _bugs()
    bugs.clear()
    store = _Store()
    server = MemoryServer.of(Verification(), Storage(store), Query(archive(), _Settled(), "PMOD"))
    script = _Script(data)
    peer = _Client(server, script.byte())
    while not script.over:
        peer.step(script)
    peer.finish()
    assert not peer.transport.connected, "the connection stays"
    assert peer.protocol.provider.state == State.Sta1
    assert not server.factory.connections and not server.factory.associations
    assert not server.clock.getDelayedCalls(), "a timer is left"
    assert not any(sink._open for sink in store.sinks), "a data set is left open"
    other = server.connect()
    assert isinstance(other.associate(), A_ASSOCIATE_AC), "others are not served"
    other.request(1, _echo(1))
    other.close()
    if bugs:
        raise AssertionError(f"logged as a bug: {bugs[0]}")


def _echo(message_id: int) -> Command:
    return C_ECHO_RQ(affected_sop_class_uid=uids.VERIFICATION, message_id=message_id)


class _Client:
    """The peer."""

    def __init__(self, server: MemoryServer, flags: int) -> None:
        self._server = server
        self._peer: Peer = server.connect()
        self.transport, self.protocol = self._peer.transport, self._peer.protocol
        self._pending = b""
        self._paused = False
        self._maximum_length = 64 if flags & SHORT_PDUS else 16384
        if flags & ESTABLISHED:
            items: list[Any] = []
            if flags & WINDOW:
                items.append(AsynchronousOperationsWindow(4, 4))
            if flags & RELATIONAL:
                items += [
                    SOPClassExtendedNegotiation(uid, b"\1\1\1")
                    for uid in (uids.STUDY_ROOT_FIND, uids.PATIENT_ROOT_FIND)
                ]
            answer = self._peer.associate(CONTEXTS, *items, maximum_length=self._maximum_length)
            assert isinstance(answer, A_ASSOCIATE_AC)

    def step(self, script: _Script) -> None:
        step = script.byte() % STEPS
        if step == BYTES:
            self._pending += script.bytes(script.byte())
        elif step == MESSAGE:
            self._pending += self._message(script)
        elif step == FRAGMENT:
            context_id, control_header, length = script.byte(), script.byte(), script.byte()
            fragment = script.bytes(length)
            self._pending += _pdv(context_id, control_header, fragment)
        elif step == RELEASE:
            self._pending += A_RELEASE_RQ().encode()
        elif step == CHUNK:
            self._deliver()
        elif step == WAIT:
            self._deliver()
            self._server.clock.advance(script.byte() / 2)
        elif step == PAUSE and self.transport.producer is not None:
            self._paused = not self._paused
            if self._paused:
                self.protocol.pauseProducing()
            else:
                self.protocol.resumeProducing()

    def _message(self, script: _Script) -> bytes:
        context_id, choice, message_id, flags = (script.byte() for _ in range(4))
        data_set = script.bytes(script.byte())
        message_type = _MESSAGES[choice % len(_MESSAGES)]
        uid = CONTEXTS.get(context_id, CONTEXTS[1])[0]
        if flags & OTHER_CLASS:
            uid = "1.2.3"
        has_data_set = {DataSet.ALWAYS: True, DataSet.NEVER: False, DataSet.MAY: bool(data_set)}
        says = has_data_set[message_type.data_set] != bool(flags & LIES)
        command = message_type(data_set=says, **_elements(message_type, uid, message_id))
        return b"".join(message(context_id, command, data_set, self._maximum_length))

    def _deliver(self) -> None:
        """Hand on what is sent, if the server takes it."""
        self._server.clock.advance(0)
        if self._pending and self.transport.connected and self.transport.producerState == "producing":
            chunk, self._pending = self._pending, b""
            self.protocol.dataReceived(chunk)
        self._peer.received()

    def finish(self) -> None:
        """See that an association that lives is answered, and that it ends if nothing more is sent."""
        self._deliver()
        if self._paused and self.transport.producer is not None:
            self.protocol.resumeProducing()
        self._deliver()
        association = self.protocol.association
        accepted = association.accepted.get(1)
        lives = self.protocol.provider.state == State.Sta6 and not association.mid_message
        if lives and accepted is not None and accepted.abstract_syntax == uids.VERIFICATION:
            self._pending += b"".join(message(1, _echo(_ECHO_ID)))
            self._server.clock.advance(0)
            assert self.transport.producerState == "producing", "the server does not read on"
            self.protocol.dataReceived(self._pending)
            answered = self._peer.received()
            assert any(
                isinstance(one, Command)
                and one.message_type is C_ECHO_RSP
                and one.message_id_being_responded_to == _ECHO_ID
                for one in answered
            ), "C-ECHO is not answered"
        for _ in range(_ROUNDS):
            self._server.clock.advance(_LONG)
            if not self.transport.connected:
                break
        self._peer.received()


def _elements(message_type: MessageType, uid: str, message_id: int) -> dict[str, Any]:
    """Values for the elements that the message has to have."""
    values: dict[str, Any] = {
        "affected_sop_class_uid": uid,
        "requested_sop_class_uid": uid,
        "affected_sop_instance_uid": f"1.2.{message_id}",
        "requested_sop_instance_uid": f"1.2.{message_id}",
        "move_destination": "SCU",
    }
    return {
        element.name: values.get(element.name, message_id if "message_id" in element.name else 0)
        for element in message_type.mandatory
    }


def _pdv(context_id: int, control_header: int, fragment: bytes) -> bytes:
    pdv = PresentationDataValue(context_id, control_header, fragment)
    return P_DATA_TF((pdv,)).encode()
