"""C60 to C93: what comes in an association (PS3.8 9.2 Sta6, 9.3.5, Annex E; PS3.7 6.3, 9.3)."""

from __future__ import annotations

from struct import pack
from typing import Any

from dicomtw import uids
from tests.conformance import wire
from tests.conformance.case import (
    Case,
    NotApplicable,
    Scene,
    Step,
    again,
    close,
    closed_by_artim,
    files,
    read,
    reset,
    row,
    singly,
)
from tests.conformance.wire import (
    CT,
    ECHO,
    ECHO_COMMAND,
    IMPLICIT,
    c_store_rq,
    command,
    group,
    image,
    message,
    p_data,
    pdu,
    rq,
)

#: What an association is about; context 5 is refused.
CONTEXTS = (
    (1, uids.VERIFICATION, IMPLICIT),
    (3, CT, IMPLICIT),
    (5, wire.PRIVATE, IMPLICIT),
)
_BOTH = (1, 3)


def inside(name: str, sends: str, sees: str, section: str, *script: Step, **more: Any) -> Case:
    """A case in an association for verification (context 1) and storage of CT images (3)."""
    return row(name, sends, sees, section, *script, **{"contexts": CONTEXTS, "needed": _BOTH, **more})


def _longer_than_maximum(scene: Scene) -> None:
    length = 1_200_000
    if not 0 < scene.maximum_length < length:
        raise NotApplicable(f"the server receives P-DATA-TF of {scene.maximum_length or 'any'} bytes")
    scene.send(p_data((3, 3, c_store_rq("1.2.3"))) + p_data((3, 0, bytes(length))))


def _commands() -> tuple[Case, ...]:
    half = len(ECHO_COMMAND) // 2
    stored = image()
    return (
        inside("C60", "C-ECHO", "0000H", "7:9.1.5", ECHO),
        inside(
            "C61 PDVs",
            "command in 2 PDVs",
            "0000H",
            "8:E.2",
            p_data((1, 1, ECHO_COMMAND[:half]), (1, 3, ECHO_COMMAND[half:])),
        ),
        inside(
            "C61 PDUs",
            "command in 2 PDUs",
            "0000H",
            "8:E.2",
            p_data((1, 1, ECHO_COMMAND[:half])) + p_data((1, 3, ECHO_COMMAND[half:])),
        ),
        inside(
            "C61 empty",
            "last fragment of a command empty",
            "0000H",
            "8:E.2",
            p_data((1, 1, ECHO_COMMAND), (1, 3, b"")),
        ),
        inside(
            "C61 bits",
            "bits 2 to 7 of the control header set",
            "0000H",
            "8:E.2",
            p_data((1, 0xFF, ECHO_COMMAND)),
        ),
        inside("C62", "2 commands in one segment", "2 x 0000H", "7.6", ECHO * 2, answers=2),
        row(
            "C64",
            "RQ, C-ECHO, RELEASE-RQ byte by byte",
            "AC 1:0, 0000H, RELEASE-RP",
            "TCP",
            *(singly(rq()), read, singly(ECHO), read, singly(wire.RELEASE_RQ)),
        ),
        inside(
            "C65",
            "command and data set in one PDU",
            "0000H, 1 file",
            "9.3.5",
            p_data((3, 3, c_store_rq(stored.uid)), (3, 2, stored.data_set)),
            read,
            files(stored),
            answers=0,
        ),
    )


def _pdus() -> tuple[Case, ...]:
    def pdv(length: int, rest: bytes = b"") -> bytes:
        return pdu(0x04, pack(">LBB", length, 1, 3) + rest)

    invalid, unexpected = "AB(2,6)", "AB(2,2)"
    return (
        inside("C66", "RQ", unexpected, "Evt6/Sta6 AA-8", rq()),
        inside("C67 AC", "AC", unexpected, "Evt3/Sta6 AA-8", wire.AC),
        inside("C67 RJ", "RJ", unexpected, "Evt4/Sta6 AA-8", wire.RJ),
        inside("C68", "RELEASE-RP", unexpected, "Evt13/Sta6 AA-8", wire.RELEASE_RP),
        inside("C69", "PDU type 0AH", "AB(2,1)", "Evt19/Sta6 AA-8", pdu(0x0A, bytes(4))),
        inside("C71", "P-DATA-TF of 0 bytes", invalid, "9.3.5", pdu(0x04, b"")),
        inside("C72 0", "PDV of 0 bytes", invalid, "9.3.5.1", pdv(0)),
        inside("C72 1", "PDV of 1 byte", invalid, "9.3.5.1", pdv(1)),
        inside("C73", "PDV longer than its PDU", invalid, "9.3.5.1", pdv(100, bytes(20))),
        inside("C74", "PDV of FFFFFFFFH bytes", invalid, "9.3.5.1", pdv(0xFFFFFFFF, bytes(20))),
        inside("C75", "P-DATA-TF of 1.2 MB, more than received", invalid, "8:D.1", _longer_than_maximum),
        inside(
            "C76",
            "header of P-DATA-TF of 7FFFFFFFH bytes",
            "AB(2,·)",
            "8:D.1",
            pdu(0x04, b"", 0x7FFFFFFF),
            memory=1,
        ),
        inside("C77", "PDV of a context never proposed", invalid, "9.3.5.1", p_data((99, 3, ECHO_COMMAND))),
        inside("C78", "PDV of a refused context", invalid, "9.3.5.1", p_data((5, 3, ECHO_COMMAND))),
    )


def _messages() -> tuple[Case, ...]:
    without_id = command(0x0030, {0x0002: uids.VERIFICATION})
    unknown = command(0x0999, {0x0110: 1})
    n_get = command(0x0110, {0x0003: CT, 0x0110: 1, 0x1001: "1.2.3"})
    response = command(0x8030, {0x0002: uids.VERIFICATION, 0x0120: 1, 0x0900: 0})
    abort = "AB(·,·)"
    return (
        inside("C81 empty", "empty command set", abort, "7:6.3.1", p_data((1, 3, b""))),
        inside(
            "C81 nothing", "command set of its length alone", abort, "7:6.3.1", p_data((1, 3, group(b"")))
        ),
        inside("C81 random", "bytes as command set", abort, "7:6.3.1", p_data((1, 3, bytes(range(7, 99))))),
        inside("C83", "C-ECHO without Message ID", abort, "7:9.3.5", p_data((1, 3, without_id))),
        inside("C84", "command field 0999H", abort, "7:E.1", p_data((1, 3, unknown))),
        inside("C85", "N-GET in a storage context", "0211H", "7:C.5", p_data((3, 3, n_get))),
        inside("C86", "C-ECHO in a storage context", "0122H", "7:C.5", p_data((3, 3, ECHO_COMMAND))),
        inside(
            "C87",
            "C-ECHO-RSP that nobody asked for, C-ECHO",
            "AB(·,·) or 0000H",
            "7:9.3.5",
            p_data((1, 3, response)),
            ECHO,
        ),
    )


def _broken_off() -> tuple[Case, ...]:
    def broken(name: str, how: str, section: str, *end: Step) -> Case:
        earlier = image()
        later = image(earlier.uid, study=earlier.study, pixels=40_000)
        half = message(3, c_store_rq(earlier.uid), later.data_set)[:30_000] if name != "C90" else b""
        whole_pdus = p_data((3, 3, c_store_rq(earlier.uid))) + p_data((3, 0, later.data_set[:16000]))
        return inside(
            name,
            f"C-STORE; again with other bytes, {how} inside the data set",
            "0000H, 1 file as sent before, no file of the rest",
            section,
            *(earlier.store, read, again(*CONTEXTS[:2]), half or whole_pdus, *end),
            *(_settle, files(earlier, "as sent before"), files(later, "of the rest")),
            answers=0,
            needs=("files",),
        )

    return (
        broken("C90", "A-ABORT", "AA-3", wire.ABORT),
        broken("C91 FIN", "FIN", "AA-4", close),
        broken("C91 RST", "RST", "AA-4", reset),
    )


def _settle(scene: Scene) -> None:
    """Wait until the server has seen the end: another peer is served, who comes later."""
    scene.peer.close()
    scene.connect()
    scene.associate(CONTEXTS[0], needed=[1])
    scene.send(ECHO)
    scene.peer.answer()


def cases() -> tuple[Case, ...]:
    """The table."""
    late: dict[str, Any] = {"answers": 0, "waits": True}
    return (
        *_commands(),
        *_pdus(),
        *_messages(),
        *_broken_off(),
        row(
            "C93 RELEASE-RP",
            "release, the socket is kept",
            "AC 1:0, RELEASE-RP, closed by ARTIM ...",
            "AR-4, AA-2",
            *(rq(), read, wire.RELEASE_RQ, read, closed_by_artim),
            **late,
        ),
        row(
            "C93 RJ",
            "RQ that is rejected, the socket is kept",
            "RJ(1,2,2), closed by ARTIM ...",
            "AE-8, AA-2",
            *(rq(version=0), read, closed_by_artim),
            **late,
        ),
        row(
            "C93 AB",
            "RELEASE-RQ first, the socket is kept",
            "AB(0,·), closed by ARTIM ...",
            "AA-1, AA-2",
            *(wire.RELEASE_RQ, read, closed_by_artim),
            **late,
        ),
    )
