"""C01 to C17: what comes before there is an association (PS3.8 9.1.5, 9.2, Sta2)."""

from __future__ import annotations

import socket
import time
from struct import pack
from typing import Any

from dicomtw import uids
from tests.conformance import wire
from tests.conformance.case import Case, Scene, closed_at_artim, row, singly
from tests.conformance.wire import ECHO_CONTEXT, NAME, USER, about, item, pdu, rq, rq_with

_LATE = "closed at ARTIM ..."
_AT_ONCE = "AB(·,·) or closed or reset"


def _echo_on(scene: Scene) -> None:
    """A C-ECHO on a further connection, and how long it takes."""
    began = time.monotonic()
    scene.connect()
    scene.send(rq())
    scene.read()
    if scene.words == ["AC 1:0"]:
        scene.words.clear()
        scene.send(wire.ECHO)
        scene.read()
    seconds = time.monotonic() - began
    scene.words.append("within 1 s" if seconds < 1 else f"after {seconds:.0f} s")


def _beside_silence(scene: Scene) -> None:
    for peer in [scene.connect() for _ in range(20)]:
        peer.send(b"\1\0\0")
    _echo_on(scene)


def _after_many(scene: Scene) -> None:
    scene.peer.close()  # some serve one after the other, and would wait for it
    for _ in range(50):
        socket.create_connection(scene.target.address, scene.target.patience).close()
    _echo_on(scene)


def cases() -> tuple[Case, ...]:
    """The table."""
    role_past_end = item(0x54, pack(">H", 64) + uids.VERIFICATION.encode() + b"\1\0")
    transfer_past_end = item(0x20, b"\1\0\0\0" + item(0x30, uids.VERIFICATION) + item(0x40, "1.2", 500))
    identity_past_end = item(0x58, pack(">BBH", 1, 0, 99) + b"me")
    late: dict[str, Any] = {"answers": 0, "waits": True}
    aborted: dict[str, Any] = {"decided": "AB(0,0)"}
    return (
        row("C01", "connect, nothing", _LATE, "9.1.5, Evt18/Sta2 AA-2", closed_at_artim, **late),
        row("C02", "3 bytes of RQ, silence", _LATE, "9.1.5", rq()[:3], closed_at_artim, **late),
        row(
            "C03",
            "C-ECHO of another beside 20 times C02",
            "0000H, within 1 s",
            "9.2.1",
            _beside_silence,
            answers=0,
        ),
        row(
            "C04",
            "RQ, a byte each thirtieth of ARTIM",
            _LATE,
            "9.1.5",
            singly(rq(), 1 / 30),
            closed_at_artim,
            **late,
        ),
        row(
            "C05 08H",
            "PDU type 08H first",
            "AB(0,·) or AB(2,·)",
            "Evt19/Sta2 AA-1",
            pdu(8, bytes(4)),
            **aborted,
        ),
        row(
            "C05 FFH",
            "PDU type FFH first",
            "AB(0,·) or AB(2,·)",
            "Evt19/Sta2 AA-1",
            pdu(255, bytes(4)),
            **aborted,
        ),
        row(
            "C06",
            "GET / HTTP/1.1",
            _AT_ONCE,
            "AA-1",
            b"GET / HTTP/1.1\r\nHost: it\r\n\r\n",
            **aborted,
            memory=1,
        ),
        row("C07", "P-DATA-TF first", "AB(0,·)", "Evt10/Sta2 AA-1", wire.ECHO),
        row("C08", "RELEASE-RQ first", "AB(0,·)", "Evt12/Sta2 AA-1", wire.RELEASE_RQ),
        row("C09", "RELEASE-RP first", "AB(0,·)", "Evt13/Sta2 AA-1", wire.RELEASE_RP),
        row("C10", "AC first", "AB(0,·)", "Evt3/Sta2 AA-1", wire.AC),
        row("C11", "RJ first", "AB(0,·)", "Evt4/Sta2 AA-1", wire.RJ),
        row("C12", "A-ABORT first", "closed or reset", "Evt16/Sta2 AA-2", wire.ABORT, decided="closed"),
        row(
            "C13",
            "RQ of FFFFFFFFH bytes",
            _AT_ONCE,
            "9.3.2; AA-1",
            pdu(1, bytes(68), 0xFFFFFFFF),
            decided="AB(·,6)",
            memory=1,
        ),
        row("C14", "RQ of 4 bytes", "AB(·,6)", "9.3.2", pdu(1, bytes(4))),
        row("C15 item", "item longer than its PDU", "AB(·,6)", "9.3.2.1", rq(item(0x10, "1.2", 500))),
        row(
            "C15 transfer syntax",
            "transfer syntax longer than its context",
            "AB(·,6)",
            "9.3.2.2",
            rq(NAME, transfer_past_end, USER),
        ),
        row(
            "C15 user information",
            "user information longer than its PDU",
            "AB(·,6)",
            "9.3.2.3",
            rq(NAME, ECHO_CONTEXT, USER[:-8]),
        ),
        row("C16 role", "UID longer than role selection", "AB(·,6)", "7:D.3.3.4", rq_with(role_past_end)),
        row(
            "C16 sub-item",
            "role selection longer than user information",
            "AB(·,6)",
            "7:D.3.3.4",
            rq_with(about(0x54, uids.VERIFICATION, b"\1\0")[:-4]),
        ),
        row(
            "C16 extended negotiation",
            "UID longer than extended negotiation",
            "AB(·,6)",
            "7:D.3.3.5",
            rq_with(item(0x56, pack(">H", 99) + b"1.2")),
        ),
        row(
            "C16 user identity",
            "user longer than user identity",
            "AB(·,6)",
            "7:D.3.3.7",
            rq_with(identity_past_end),
        ),
        row(
            "C16 maximum length",
            "maximum length of 3 bytes",
            "AB(·,6)",
            "8:D.1",
            rq_with(item(0x51, b"\0\0\x40")),
        ),
        row(
            "C17", "50 times connect and close; C-ECHO", "0000H, within 1 s", "9.2.1", _after_many, answers=0
        ),
    )
