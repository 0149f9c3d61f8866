"""C20 to C51: associations that are proposed (PS3.8 7.1.1, 9.3.2 to 9.3.4; PS3.7 D.3.3)."""

from __future__ import annotations

from struct import pack
from typing import Any

from dicomtw import uids
from tests.conformance import wire
from tests.conformance.case import Case, Scene, Step, row
from tests.conformance.wire import (
    CT,
    CT_CONTEXT,
    ECHO_CONTEXT,
    EXPLICIT,
    IMPLICIT,
    NAME,
    PRIVATE,
    USER,
    about,
    context,
    item,
    maximum_length,
    rq,
    rq_of,
    rq_with,
)

_JPEG = "1.2.840.10008.1.2.4.50"


def _title(prefix: str, called: bool) -> Step:
    """Send an RQ whose AE title is padded in front, or is not in its own case."""

    def play(scene: Scene) -> None:
        title = scene.target.called if called else scene.target.calling
        other = title.swapcase() if prefix == "case" else f"{prefix}{title}"
        sent = rq(called=other[:16].encode("ascii")) if called else rq(calling=other[:16].encode("ascii"))
        scene.send(sent)

    return play


def _one_too_many(scene: Scene) -> None:
    """As many associations as there may be, and one more; then a C-ECHO on each."""
    peers = [scene.peer, *(scene.connect() for _ in range(scene.target.limit - 1))]
    for peer in peers:
        peer.send(scene.target.titled(rq()))
        if peer.answer().kind != 0x02:
            scene.words.append("REFUSED BEFORE THE LIMIT")
    scene.connect()
    scene.send(rq())
    scene.read()
    for peer in peers:
        peer.send(wire.ECHO)
        scene.words.append(peer.answer().words())


def _echo_in_pieces(length: int) -> Step:
    """A C-ECHO of a peer that receives so many bytes at most."""

    def play(scene: Scene) -> None:
        scene.send(rq_with(maximum_length(length)))
        scene.read()
        scene.send(wire.ECHO)
        scene.read()
        if length and scene.peer.longest > length:
            scene.words.append(f"P-DATA-TF of {scene.peer.longest}")

    return play


def _titles() -> tuple[Case, ...]:
    return (
        row(
            "C24",
            "another called AE title",
            "RJ(1,1,7)",
            "T9-21",
            rq(called=b"NOT-THIS-ONE"),
            needs=("called-ae",),
        ),
        row(
            "C25",
            "calling AE title not known",
            "RJ(1,1,3)",
            "T9-21",
            rq(calling=b"STRANGER"),
            needs=("known-ae",),
        ),
        row("C26 called", "called AE title of spaces", "RJ(1,1,7) or RJ(1,1,3)", "7.1.1.4", rq(called=b"")),
        row(
            "C26 calling", "calling AE title of spaces", "RJ(1,1,3) or RJ(1,1,7)", "7.1.1.3", rq(calling=b"")
        ),
        row("C27 called", "called AE title after a space", "AC 1:0", "5:6.2 AE", _title(" ", called=True)),
        row("C27 calling", "calling AE title after a space", "AC 1:0", "5:6.2 AE", _title(" ", called=False)),
        row(
            "C27 case",
            "called AE title in the other case",
            "RJ(1,1,7)",
            "5:6.2 AE",
            _title("case", called=True),
            needs=("called-ae",),
        ),
        row(
            "C28 backslash", "calling AE title with a backslash", "RJ(1,1,3)", "5:6.2 AE", rq(calling=b"A\\B")
        ),
        row("C28 control", "calling AE title with a line feed", "RJ(1,1,3)", "5:6.2 AE", rq(calling=b"A\nB")),
    )


def _contexts() -> tuple[Case, ...]:
    numbers = range(1, 256, 2)
    many = [context(number, uids.VERIFICATION, IMPLICIT) for number in numbers]
    many_too_many = [context(number % 128 * 2 + 1, uids.VERIFICATION, IMPLICIT) for number in range(200)]
    invalid = "AB(·,·) or RJ(·,·,·)"
    return (
        row("C29", "128 contexts", "AC 1 to 255, 128 x 0", "7.1.1.13", rq_of(*many)),
        row(
            "C30",
            "a context ID twice",
            f"{invalid} or AC ...",
            "7.1.1.13",
            rq_of(ECHO_CONTEXT, ECHO_CONTEXT),
            decided="AB(2,6)",
        ),
        row(
            "C31 2",
            "context ID 2",
            invalid,
            "7.1.1.13",
            rq_of(context(2, uids.VERIFICATION, IMPLICIT)),
            decided="AB(2,6)",
        ),
        row(
            "C31 0",
            "context ID 0",
            invalid,
            "7.1.1.13",
            rq_of(context(0, uids.VERIFICATION, IMPLICIT)),
            decided="AB(2,6)",
        ),
        row(
            "C32",
            "200 contexts",
            f"{invalid} or AC ...",
            "7.1.1.13",
            rq_of(*many_too_many),
            decided="AB(2,6)",
        ),
        row("C33", "no context", "AB(2,6) or RJ(1,1,1)", "9.3.2", rq(NAME, USER)),
        row(
            "C34",
            "a context without transfer syntax",
            "AC 1:4 or AB(·,·)",
            "9.3.2.2",
            rq_of(context(1, uids.VERIFICATION)),
            decided="AC 1:4",
        ),
        row("C35", "unknown abstract syntax", "AC 1:3", "9.3.3.2", rq_of(context(1, PRIVATE, IMPLICIT))),
        row(
            "C36",
            "unknown transfer syntax",
            "AC 1:4",
            "9.3.3.2",
            rq_of(context(1, uids.VERIFICATION, "1.2.3.4")),
        ),
        row(
            "C41",
            "abstract syntax of 72 bytes",
            "AC 1:3 or AB(·,·)",
            "5:9.1",
            rq_of(context(1, "1." + "2" * 70, IMPLICIT)),
        ),
        row(
            "C41 bytes",
            "abstract syntax that is no UID",
            "AC 1:3 or AB(·,·)",
            "5:9.1",
            rq_of(context(1, "\xff\x1b[2J", IMPLICIT)),
        ),
        row(
            "C44",
            "only contexts that are not supported",
            "AC 1:3 3:3",
            "7.1.1.14",
            rq_of(context(1, PRIVATE, IMPLICIT), context(3, f"{PRIVATE}.1", IMPLICIT)),
        ),
        row(
            "C50",
            "option default transfer syntax",
            "AC 1:0, 1.2.840.10008.1.2",
            "5:10.1",
            rq_of(context(1, CT, _JPEG, EXPLICIT, IMPLICIT)),
            needs=("default-ts",),
            details=(0x40,),
        ),
    )


def _user_information() -> tuple[Case, ...]:
    def identity(asked: bool, user: bytes, passcode: bytes) -> bytes:
        fields = pack(">BB", 2, asked)
        return item(0x58, fields + b"".join(pack(">H", len(one)) + one for one in (user, passcode)))

    def storage(*sub_items: bytes) -> bytes:
        return rq_of(CT_CONTEXT, sub_items=b"".join(sub_items))

    def role(scu: int, scp: int) -> bytes:
        return about(0x54, CT, bytes((scu, scp)))

    accepted: dict[str, Any] = {"details": (0x54,)}
    return (
        row("C37 none", "no user information", "AC 1:0", "7:D.3.3.1", rq(NAME, ECHO_CONTEXT)),
        row("C37 empty", "no maximum length", "AC 1:0", "7:D.3.3.1", rq_with()),
        row("C38 0", "maximum length 0; C-ECHO", "AC 1:0, 0000H", "8:D.1", _echo_in_pieces(0), answers=0),
        row(
            "C38 4096",
            "maximum length 4096; C-ECHO",
            "AC 1:0, 0000H",
            "8:D.1",
            _echo_in_pieces(4096),
            answers=0,
        ),
        row(
            "C38 64",
            "maximum length 64; C-ECHO",
            "AC 1:0, 0000H or RJ(·,·,·) or AB(·,·)",
            "8:D.1",
            _echo_in_pieces(64),
            answers=0,
            decided="AC 1:0, 0000H",
        ),
        row(
            "C40 item",
            "unknown items 77H",
            "AC 1:0",
            "9.3.1",
            rq(item(0x77, "odd"), NAME, ECHO_CONTEXT, USER, item(0x77, "")),
        ),
        row(
            "C40 sub-item",
            "unknown sub-item 5FH",
            "AC 1:0",
            "9.3.1",
            rq_with(item(0x5F, "odd"), maximum_length(16384)),
        ),
        row("C45 none", "no role", "AC 1:0, no 54H", "7:D.3.3.4", storage(), **accepted),
        row(
            "C45 both",
            "roles of SCU and SCP",
            "AC 1:0, 54H ·/· or AC 1:0, no 54H",
            "7:D.3.3.4",
            storage(role(1, 1)),
            decided="AC 1:0, 54H 1/1",
            **accepted,
        ),
        row(
            "C45 SCP",
            "role of SCP",
            "AC 1:0, 54H 0/· or AC 1:0, no 54H or AC 1:·, 54H 0/·",
            "7:D.3.3.4",
            storage(role(0, 1)),
            **accepted,
        ),
        row(
            "C47 not asked",
            "user identity, no response asked",
            "AC 1:0, no 59H",
            "7:D.3.3.7",
            rq_with(maximum_length(16384), identity(False, b"me", b"secret")),
            details=(0x59,),
        ),
        row(
            "C47 asked",
            "user identity, response asked",
            "AC 1:0, no 59H or AC 1:0, 59H or RJ(1,1,1)",
            "7:D.3.3.7",
            rq_with(maximum_length(16384), identity(True, b"me", b"secret")),
            details=(0x59,),
        ),
        row(
            "C48",
            "wrong passcode",
            "RJ(1,1,1)",
            "15:B.5",
            rq_with(maximum_length(16384), identity(True, b"me", b"wrong")),
            needs=("identity",),
        ),
        row(
            "C49",
            "option no implementation version name",
            "AC 1:0, no 55H",
            "7:D.3.3.2",
            rq(),
            needs=("anonymous",),
            details=(0x55,),
        ),
    )


def cases() -> tuple[Case, ...]:
    """The table, in the order of the ids."""
    rows = (
        row("C20 0000", "protocol version 0000H", "RJ(1,2,2)", "9.3.4 T9-21", rq(version=0)),
        row("C20 0002", "protocol version 0002H", "RJ(1,2,2)", "9.3.4 T9-21", rq(version=2)),
        row("C20 0003", "protocol version 0003H, of which bit 0 counts", "AC 1:0", "9.3.2", rq(version=3)),
        row(
            "C22",
            "unknown application context",
            "RJ(1,1,2)",
            "7.1.1.2",
            rq(item(0x10, "1.2.3"), ECHO_CONTEXT, USER),
        ),
        row(
            "C23",
            "no application context",
            "RJ(1,1,2) or AB(·,6)",
            "9.3.2.1",
            rq(ECHO_CONTEXT, USER),
        ),
        *_titles(),
        *_contexts(),
        *_user_information(),
        row("C43", "reserved bytes are FFH", "AC 1:0", "9.3.2", rq(reserved=b"\xff" * 32)),
        row(
            "C51",
            "one association more than the limit; C-ECHO on the others",
            "RJ(2,3,2), ... x 0000H",
            "T9-21",
            _one_too_many,
            answers=0,
            needs=("limit",),
        ),
    )
    return tuple(sorted(rows, key=lambda case: case.id))
