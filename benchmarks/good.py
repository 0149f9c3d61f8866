"""Peers who mean well: each of their visits must be served, and what they get must be what was stored."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from random import Random
from struct import pack

import attrs

from benchmarks.crowd import PATIENCE, Kind, Member, digest
from dicomtw import uids
from tests.conformance import wire
from tests.conformance.case import Case, Scene, Step, row
from tests.conformance.peer import Answer
from tests.conformance.wire import CT, ECHO, IMPLICIT, Image, command, element, message, p_data

#: Pixel data of a 512 x 512 slice of 16 bits, and of a small object, in bytes.
CT_PIXELS = 512 * 512 * 2
SMALL_PIXELS = 9000 - 400

FIND, MOVE, GET = uids.STUDY_ROOT_FIND, uids.STUDY_ROOT_MOVE, uids.STUDY_ROOT_GET

_STORAGE = ((1, uids.VERIFICATION, IMPLICIT), (3, CT, IMPLICIT))
#: A member begins another study after so many visits.
_IN_STUDY = 50


@functools.cache
def _noise() -> bytes:
    return Random(1).randbytes(2 * CT_PIXELS)


def picture(member: Member, pixels: int, study: str = "", uid: str = "") -> Image:
    """A CT image, whose pixels are noise."""
    made = wire.image(uid, study=study, pixels=0, number=member.random.randrange(1000))
    at = member.random.randrange(CT_PIXELS)
    noise = _noise()[at : at + min(pixels, CT_PIXELS)]
    head = made.data_set[: -len(element(0x7FE00010, made.marker))]
    value = made.marker + noise * (pixels // max(len(noise), 1))
    return attrs.evolve(made, data_set=head + element(0x7FE00010, value))


def storing(member: Member, image: Image, keep: bool = True) -> Callable[[Scene], None]:
    """Store an image, and see to it that it is remembered if it was acknowledged.

    `keep` it for what later visits are about; if not, it is this that is measured of the visit.
    """

    def play(scene: Scene) -> None:
        began = time.monotonic()
        scene.send(image.store)
        answer = scene.read(PATIENCE)
        if not keep:
            member.measured = time.monotonic() - began
        if answer is not None and answer.number(0x0900) == 0:
            member.acknowledged(image)
            if keep:
                member.series.append(image)

    return play


def identifier(level: str, study: str, *between: bytes, behind: bytes = b"") -> bytes:
    """What is asked for: `between` are elements with tags between those of the level and the study."""
    word = level + " " * (len(level) % 2)
    return (
        element(0x00080052, word.encode()) + b"".join(between) + element(0x0020000D, study.encode()) + behind
    )


def series_of(study: str) -> bytes:
    """The key for the series that all images of a study are in."""
    return element(0x0020000E, f"{study[:62]}.1".encode())


def c_find(keys: bytes, number: int = 1, message_id: int = 9) -> bytes:
    """A C-FIND in the presentation context `number`."""
    return message(number, command(0x0020, {0x0002: FIND, 0x0110: message_id, 0x0700: 0}, True), keys)


def value_of(data_set: bytes, tag: int) -> str:
    """The value of an element of an identifier, Implicit VR Little Endian; empty if there is none."""
    at = data_set.find(pack("<HH", tag >> 16, tag & 0xFFFF))
    if at < 0:
        return ""
    length = int.from_bytes(data_set[at + 4 : at + 8], "little")
    return data_set[at + 8 : at + 8 + length].decode("latin-1").rstrip("\0 ")


def _visit(name: str, sees: str, *script: Step, number: int = 0, contexts: tuple[wire.Context, ...]) -> Case:
    return row(
        name,
        name,
        sees,
        "",
        *script,
        answers=number,
        contexts=contexts,
        needed=tuple(int(one[0]) for one in contexts),
    )


# ---- visits --------------------------------------------------------------------------------------------


def echo(member: Member) -> Case:
    """Association, C-ECHO, release."""
    return _visit("echo", "0000H", member.linger, ECHO, number=1, contexts=_STORAGE[:1])


def _store(name: str, pixels: int, count: int) -> Kind:
    def visit(member: Member) -> Case:
        study = member.study_of(_IN_STUDY)
        steps = [storing(member, picture(member, pixels, study), keep=False) for _ in range(count)]
        return _visit(name, f"{count} x 0000H", member.linger, *steps, contexts=_STORAGE)

    return Kind(name, "", 20 if pixels == SMALL_PIXELS else 8, 4.0 if pixels == SMALL_PIXELS else 8.0, visit)


def _probe_store(member: Member) -> Case:
    image = picture(member, SMALL_PIXELS, member.study_of(_IN_STUDY))
    return _visit("probe", "0000H", storing(member, image, keep=False), contexts=_STORAGE)


def _have_series(member: Member, count: int = 4, pixels: int = SMALL_PIXELS) -> list[Step]:
    """What a member has to store first, so that there is something that its visits are about."""
    if len(member.series) == count and member.random.random() > 0.02:
        return []
    member.series.clear()
    study = wire.new_uid()
    return [storing(member, picture(member, pixels, study)) for _ in range(count)]


def _store_again(member: Member) -> Case:
    first = _have_series(member)
    if first:
        return _visit("store", "4 x 0000H", member.linger, *first, contexts=_STORAGE)
    steps = [storing(member, image, keep=False) for image in member.series]
    return _visit("re-send", f"{len(steps)} x 0000H", member.linger, *steps, contexts=_STORAGE)


def _found(member: Member) -> Step:
    """Ask for the instances of the study, which must be all that were stored."""

    def play(scene: Scene) -> None:
        study = member.series[0].study
        scene.send(
            c_find(element(0x00080018, b"") + identifier("IMAGE", study, behind=series_of(study)), number=5)
        )
        answer = scene.peer.answer(PATIENCE)
        found = []
        while answer.pending:
            found.append(value_of(answer.body, 0x00080018))
            answer = scene.peer.answer(PATIENCE)
        all_there = sorted(found) == sorted(image.uid for image in member.series)
        scene.words.append("all found" if all_there else f"{len(found)} FOUND OF {len(member.series)}")
        scene.words.append(answer.words())

    return play


def _find(member: Member) -> Case:
    contexts = (*_STORAGE, (5, FIND, IMPLICIT))
    first = _have_series(member)
    if first:
        steps = (member.linger, *first, _found(member))
        return _visit("find", "4 x 0000H, all found, 0000H", *steps, contexts=contexts)
    keys = element(0x00080061, b"") + element(0x00100010, b"Conf*") + element(0x00100020, b"")
    by_study = c_find(identifier("STUDY", member.series[0].study, keys), number=5)

    def play(scene: Scene) -> None:
        scene.send(by_study)
        answer, matches = scene.peer.answer(PATIENCE), 0
        while answer.pending:
            matches += 1
            answer = scene.peer.answer(PATIENCE)
        scene.words.append(f"{matches} study, {answer.words()}")

    steps = (member.linger, play, _found(member))
    return _visit("find", "1 study, 0000H, all found, 0000H", *steps, contexts=contexts)


def _got(member: Member) -> Step:
    """C-GET of the study: each object must come as it was stored."""

    def play(scene: Scene) -> None:
        due = {image.uid: digest(image.data_set) for image in member.series}
        asked = command(0x0010, {0x0002: GET, 0x0110: 9, 0x0700: 0}, True)
        scene.send(message(1, asked, identifier("STUDY", member.series[0].study)))
        number = 0
        while True:
            answer = scene.peer.answer(PATIENCE)
            if answer.number(0x0100) == 0x0001:
                if due.pop(uid_of(answer), "") != digest(answer.body):
                    scene.words.append("NOT WHAT WAS STORED")
                number += 1
                scene.send(taken(answer))
            elif not answer.pending:
                break
        scene.words.append(f"{number} got" if not due else f"{number} GOT, {len(due)} MISSING")
        scene.words.append(answer.words())

    return play


def taken(answer: Answer) -> bytes:
    """0000H to a C-STORE that C-GET has asked for."""
    about: dict[int, int | str] = {
        0x0002: CT,
        0x0120: answer.number(0x0110) or 0,
        0x0900: 0,
        0x1000: uid_of(answer),
    }
    return p_data((3, 3, command(0x8001, about)))


def uid_of(answer: Answer) -> str:
    """The SOP Instance UID that a C-STORE is about."""
    return answer.command[0x1000].decode("latin-1").rstrip("\0")


def associating_to_get(scene: Scene) -> None:
    """An association in which we are the SCP of storage, too (PS3.7 D.3.3.4)."""
    contexts = ((1, GET, IMPLICIT), (3, CT, IMPLICIT))
    scene.associate(*contexts, needed=[1, 3], sub_items=wire.about(0x54, CT, b"\1\1"))


def _get(member: Member) -> Case:
    first = _have_series(member)
    seen = "4 x 0000H, 4 got, 0000H" if first else "4 got, 0000H"
    return _visit("get", seen, associating_to_get, member.linger, *first, _got(member), contexts=())


def _move(member: Member) -> Case:
    first = _have_series(member)

    def play(scene: Scene) -> None:
        destination = member.place.sink
        asked: dict[int, int | str] = {
            0x0002: MOVE,
            0x0110: 9,
            0x0600: destination + " " * (len(destination) % 2),
            0x0700: 0,
        }
        scene.send(message(5, command(0x0021, asked, True), identifier("STUDY", member.series[0].study)))
        answer = scene.peer.answer(2 * PATIENCE)
        while answer.pending:
            answer = scene.peer.answer(2 * PATIENCE)
        scene.words.append(f"{answer.number(0x1021)} moved, {answer.words()}")

    seen = "4 x 0000H, 4 moved, 0000H" if first else "4 moved, 0000H"
    return _visit("move", seen, member.linger, *first, play, contexts=(*_STORAGE, (5, MOVE, IMPLICIT)))


def _idle(member: Member) -> Case:
    """An association that is held open: it is ended when the idle timeout is over, and not before."""
    idle = member.place.idle

    def play(scene: Scene) -> None:
        began = time.monotonic()
        wait = min(max(0.0, member.until - began), idle + PATIENCE)
        scene.read(wait)
        seconds = time.monotonic() - began
        if scene.words[-1] == "silence":
            scene.words.append("too long" if wait > idle + PATIENCE / 2 else "still there")
            scene.send(ECHO)
            scene.read()
        elif seconds < 0.9 * idle:
            scene.words.append(f"after {seconds:.0f} s")

    def echoed(scene: Scene) -> None:
        scene.send(ECHO)
        scene.read()

    # What has read "silence" is no longer known to be associated: it closes without a release.
    sees = "0000H, silence, still there, 0000H or 0000H, AB(·,·)"
    return _visit("idle", sees, echoed, play, contexts=_STORAGE[:1])


#: Who measures: a visit each half second.
PROBES = (
    Kind("probe: association, echo, release", "", 1, 0.5, echo, regular=True),
    Kind("probe: store of 9 KB", "", 1, 0.5, _probe_store, regular=True),
)

KINDS = (
    Kind("echo", "", 10, 2.0, echo),
    _store("store, small", SMALL_PIXELS, 5),
    _store("store, CT", CT_PIXELS, 2),
    Kind("store again", "", 6, 4.0, _store_again),
    Kind("find", "", 10, 3.0, _find),
    Kind("get", "", 8, 4.0, _get),
    Kind("move", "", 4, 6.0, _move),
    Kind("idle association", "", 20, 2.0, _idle),
)
