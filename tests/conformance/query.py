"""Q01 to Q10 and N01 to N04: queries, retrievals, managed objects (PS3.4 C.4, PS3.7 10.1)."""

from __future__ import annotations

import time
from struct import pack
from typing import Any

from dicomtw import uids
from tests.conformance.case import Case, Scene, Step, read, read_at_leisure, row
from tests.conformance.wire import (
    CT,
    EXPLICIT,
    IMPLICIT,
    command,
    element,
    image,
    message,
    nested,
    new_uid,
    p_data,
    store,
)

FIND, MOVE, GET = uids.STUDY_ROOT_FIND, uids.STUDY_ROOT_MOVE, uids.STUDY_ROOT_GET
_MPPS = "1.2.840.10008.3.1.2.3.3"
_COMMITMENT = "1.2.840.10008.1.20.1"
_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
_CONTEXTS = ((1, FIND, IMPLICIT), (3, CT, IMPLICIT), (5, FIND, EXPLICIT))
_SOME = "0000H or matches, 0000H"


def _text(tag: int, value: str) -> bytes:
    return element(tag, (value + " " * (len(value) % 2)).encode("ascii"))


def _identifier(level: str, *elements: bytes, study: str = "") -> bytes:
    """Elements in front of the Study Instance UID, behind the level."""
    asked = b"".join(elements)
    return _text(0x00080052, level) + asked + element(0x0020000D, study.encode("ascii"))


def _c_find(identifier: bytes, number: int = 1) -> bytes:
    return message(number, command(0x0020, {0x0002: FIND, 0x0110: 9, 0x0700: 0}, True), identifier)


def _find(name: str, sends: str, sees: str, section: str, *script: Step, **more: Any) -> Case:
    return row(name, sends, sees, section, *script, contexts=_CONTEXTS, **more)


def _cancelled(scene: Scene) -> None:
    """Store objects, ask for all, cancel after ten, and see what is sent yet and for how long."""
    study = new_uid()
    patience = scene.target.recovery
    for number in range(scene.target.matches):
        made = image(study=study, number=number)
        scene.send(made.store)
        stored = scene.peer.answer(patience)
        if stored.number(0x0900) != 0:
            scene.words.append(f"{stored.words()} to C-STORE")
            return
    scene.release()
    # Nothing shall wait in the systems' buffers that cannot be taken back.
    scene.connect(buffer=4096)
    scene.associate(*_CONTEXTS, needed=[1])
    keys = (
        _text(0x00080018, ""),
        element(0x00080020, b""),
        element(0x00100010, b""),
        element(0x00100020, b""),
    )
    level = _text(0x00080052, "IMAGE")
    behind = element(0x0020000D, study.encode()) + element(0x0020000E, f"{study[:62]}.1".encode())
    scene.send(_c_find(keys[0] + keys[1] + level + keys[2] + keys[3] + behind))
    for _ in range(10):
        answer = scene.peer.answer(patience)
        if not answer.pending:
            scene.words.append(answer.words())
            return
    began = time.monotonic()
    scene.send(p_data((1, 3, command(0x0FFF, {0x0120: 9}))))
    number = 10
    answer = scene.peer.answer(patience)
    while answer.pending:
        number += 1
        answer = scene.peer.answer(patience)
    seconds = time.monotonic() - began
    scene.words.append(answer.words())
    scene.words.append("within 1 s" if seconds < 1 else f"after {seconds:.1f} s")
    if answer.number(0x0900) == 0 and number < scene.target.matches:
        scene.words.append(f"{number} MATCHES OF {scene.target.matches}")


def _moved_to_dead(scene: Scene) -> None:
    made = image()
    scene.send(store(made.uid, made.data_set))
    scene.read()
    scene.send(_c_move(scene.target.dead, made.study))
    scene.read(scene.target.recovery)


def _c_move(destination: str, study: str) -> bytes:
    asked = command(0x0021, {0x0002: MOVE, 0x0110: 9, 0x0600: _even(destination), 0x0700: 0}, True)
    return message(1, asked, _identifier("STUDY", study=study))


def _even(title: str) -> str:
    return title + " " * (len(title) % 2)


def _c_get(study: str) -> bytes:
    asked = command(0x0010, {0x0002: GET, 0x0110: 9, 0x0700: 0}, True)
    return message(1, asked, _identifier("STUDY", study=study))


def _queries() -> tuple[Case, ...]:
    study = element(0x0020000D, b"")
    keys = (0x00080020, 0x00080030, 0x00080050, 0x00080061, 0x00081030, 0x00100010, 0x00100020, 0x00100030)
    every = b"".join(element(tag, b"") for tag in (*keys[:4], keys[4], *keys[5:]))
    level_among = every[: 8 * 3] + _text(0x00080052, "STUDY") + every[8 * 3 :] + study
    # Referenced Study Sequence as LO, Patient's Name as SQ, with explicit VR; then the same with implicit.
    level = pack("<HH2sH", 0x0008, 0x0052, b"CS", 6) + b"STUDY "
    item = pack("<HHL", 0xFFFE, 0xE000, 0)
    behind = pack("<HH2sH", 0x0020, 0x000D, b"UI", 0)
    text = level + pack("<HH2sH", 0x0008, 0x1110, b"LO", 4) + b"text" + behind
    sequence = level + pack("<HH2sHL", 0x0010, 0x0010, b"SQ", 0, 8) + item + behind
    any_end = f"{_SOME} or A9xxH or CxxxH"
    deep = _text(0x00080052, "STUDY") + nested(10_000, 0x00081110) + study
    return (
        _find("Q01", "C-FIND without Query/Retrieve Level", "A900H", "4:C.4.1", _c_find(study)),
        _find("Q02", "C-FIND at level NONSENSE", "A900H", "4:C.4.1", _c_find(_identifier("NONSENSE"))),
        _find("Q03", "C-FIND, every key empty", any_end, "4:C.4.1", _c_find(level_among)),
        _find("Q04 text", "C-FIND, a sequence as text", any_end, "4:C.4.1", _c_find(text, 5), needed=(1, 5)),
        _find(
            "Q04 sequence",
            "C-FIND, a name as sequence",
            any_end,
            "4:C.4.1",
            _c_find(sequence, 5),
            needed=(1, 5),
        ),
        _find(
            "Q04 implicit",
            "C-FIND, a sequence as text, implicit VR",
            any_end,
            "4:C.4.1",
            _c_find(_identifier("STUDY", element(0x00081110, b"text"))),
        ),
        _find(
            "Q05",
            "C-FIND of many, C-CANCEL after 10 matches",
            "FE00H, within 1 s or 0000H, within 1 s",
            "7:9.3.2.3",
            _cancelled,
            answers=0,
            needed=(1, 3),
            memory=32,
        ),
        _find(
            "Q07",
            "C-FIND, identifier nested 10000 deep",
            "A9xxH or CxxxH",
            "no crash",
            _c_find(deep),
            read_at_leisure,
            answers=0,
        ),
    )


def _retrievals() -> tuple[Case, ...]:
    moving = ((1, MOVE, IMPLICIT), (3, CT, IMPLICIT))
    getting = ((1, GET, IMPLICIT), (3, CT, IMPLICIT))
    got = image()
    failed = "0000H, A702H 1 failed or 0000H, B000H 1 failed"
    return (
        row(
            "Q08",
            "C-MOVE to an unknown destination",
            "A801H",
            "4:C.4.2",
            _c_move("NOBODY", "1.2.3"),
            contexts=moving,
        ),
        row(
            "Q09",
            "C-STORE; C-MOVE to a dead destination",
            failed,
            "4:C.4.2",
            _moved_to_dead,
            contexts=moving,
            needed=(1, 3),
            needs=("dead",),
            answers=0,
        ),
        row(
            "Q10",
            "C-STORE; C-GET without the role of a storage SCP",
            failed,
            "4:C.4.3",
            *(got.store, read, _c_get(got.study)),
            contexts=getting,
            needed=(1, 3),
        ),
    )


def _managed() -> tuple[Case, ...]:
    step = new_uid()
    created = _text(0x00400252, "IN PROGRESS")
    create = message(1, command(0x0140, {0x0002: _MPPS, 0x0110: 1, 0x1000: step}, True), created)
    change = message(1, command(0x0120, {0x0003: _MPPS, 0x0110: 1, 0x1001: new_uid()}, True), created)
    about = {0x0110: 1}
    action = command(0x0130, {0x0003: _COMMITMENT, **about, 0x1001: _COMMITMENT_INSTANCE, 0x1008: 99})
    event = command(0x0100, {0x0002: _COMMITMENT, **about, 0x1000: _COMMITMENT_INSTANCE, 0x1002: 99})
    steps, commitment = ((1, _MPPS, IMPLICIT),), ((1, _COMMITMENT, IMPLICIT),)
    section = "7:10.1, C"
    return (
        row("N01", "N-CREATE twice", "0000H, 0111H", section, create, read, create, contexts=steps),
        row("N02", "N-SET of what is not there", "0112H", section, change, contexts=steps),
        row("N03", "N-ACTION of type 99", "0123H", section, message(1, action), contexts=commitment),
        row("N04", "N-EVENT-REPORT of type 99", "0113H", section, message(1, event), contexts=commitment),
    )


def cases() -> tuple[Case, ...]:
    """The table."""
    return (*_queries(), *_retrievals(), *_managed())
