"""Peers who abuse an association: by slowness, by breaking off, by what is costly, by anything at all."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.crowd import PATIENCE, Member
from benchmarks.good import (
    FIND,
    GET,
    associating_to_get,
    c_find,
    identifier,
    picture,
    storing,
)
from dicomtw import uids
from tests.conformance import wire
from tests.conformance.case import Case, Scene, Step, close, read, reset, row
from tests.conformance.wire import (
    ABORT,
    CT,
    ECHO,
    IMPLICIT,
    RELEASE_RQ,
    c_store_rq,
    command,
    element,
    message,
    p_data,
)

_STORAGE = ((1, uids.VERIFICATION, IMPLICIT), (3, CT, IMPLICIT))
_FINDING = ((1, FIND, IMPLICIT), (3, uids.VERIFICATION, IMPLICIT))
_SMALL = 40_000
_MEGABYTE = 1 << 20
#: More than systems take for a peer who does not read.
_LARGE = 8 * _MEGABYTE

#: What a server must do with a connection that it gets nothing from, or nothing more.
CLOSED = "closed in time"
ABORTED = "AB(·,·) or closed or reset"
RELEASED = f"RELEASE-RP or {ABORTED}"


def visiting(
    name: str, sees: str, *script: Step, contexts: tuple[wire.Context, ...] = (), answers: int = 0
) -> Case:
    needed = tuple(int(one[0]) for one in contexts)
    return row(name, name, sees, "", *script, contexts=contexts, needed=needed, answers=answers)


def closed_after(seconds: Callable[[Scene], float]) -> Step:
    """Wait for the server to close the connection, which it must do so many seconds after it was opened."""

    def play(scene: Scene) -> None:
        due = seconds(scene)
        limit = due + PATIENCE / 2
        closed = scene.peer.closed_after(limit)
        if closed is None:
            scene.words.append(f"open after {limit:.0f} s")
        else:
            scene.words.append(CLOSED if closed > 0.8 * due else f"closed after {closed:.1f} s")
        scene.peer.close()

    return play


# ---- slow ------------------------------------------------------------------------------------------------


def slow_store(member: Member) -> Case:
    """A data set of three bytes each second, and at last the rest: received, or aborted as too slow.

    Not before the DIMSE timeout has run out, and not much later than when that has run out twice.
    """
    image = picture(member, 1000)
    sent = image.store
    dimse = member.place.dimse
    seconds = member.random.uniform(0.5, 3.0) * dimse

    def play(scene: Scene) -> None:
        at = len(p_data((3, 3, c_store_rq(image.uid))))
        began = time.monotonic()
        end = min(began + seconds, member.until)
        scene.send(sent[:at])
        while time.monotonic() < end and scene.send(sent[at : at + 3]):
            at += 3
            time.sleep(1.0)
        slow = time.monotonic() - began
        scene.send(sent[at:])
        answer = scene.read()
        if answer is not None and answer.number(0x0900) == 0:
            member.acknowledged(image)
            if slow > 2.2 * dimse:
                scene.words.append(f"after {slow:.0f} s")
        elif slow < 0.9 * dimse:
            scene.words.append("too early")

    return visiting("slow C-STORE", f"0000H or {ABORTED}", play, contexts=_STORAGE)


def never_reads(member: Member) -> Case:
    """C-GET of more than systems buffer, of which nothing is read: the server cuts the connection off.

    What it has given to the system by then still comes, when it is read at last; and then the end.
    """
    first = [] if member.series else [storing(member, picture(member, _LARGE))]

    def play(scene: Scene) -> None:
        associating_to_get(scene)
        for step in first:
            step(scene)
        scene.release()
        # The window is one of a small buffer from the first.
        scene.connect(buffer=4096)
        associating_to_get(scene)
        asked = command(0x0010, {0x0002: GET, 0x0110: 9, 0x0700: 0}, True)
        scene.send(message(1, asked, identifier("STUDY", member.series[0].study)))
        began = time.monotonic()
        # The A-ABORT is not read either: it has the ARTIM time to be, and then some seconds to be sent.
        cut = scene.peer.is_cut(1.2 * member.place.dimse + member.place.artim + 5.0)
        seconds = time.monotonic() - scene.peer.began
        if not cut:
            cut = scene.peer.closed_after(seconds + 2.0) is not None
        early = time.monotonic() - began < 0.8 * member.place.dimse
        scene.words.append("early" if early else "cut off" if cut else "open")
        scene.peer.close()

    return visiting("never reads", "0000H, cut off" if first else "cut off", play)


# ---- inside a data set -----------------------------------------------------------------------------------


def broken_off(name: str, sees: str, *end: Step) -> Callable[[Member], Case]:
    """An object is stored; then another of its name is sent by half: the first must be there in the end."""

    def visit(member: Member) -> Case:
        first = []
        if not member.series or member.random.random() < 0.1:
            member.series.clear()
            first = [storing(member, picture(member, _SMALL))]

        def half(scene: Scene) -> None:
            image = member.series[0]
            other = picture(member, _SMALL, image.study, image.uid)
            begin = p_data((3, 3, c_store_rq(image.uid)))
            if any(isinstance(step, bytes) for step in end):  # a PDU, before which others must be whole
                scene.send(begin + p_data((3, 0, other.data_set[:16000])))
            else:
                scene.send(other.store[: member.random.randrange(len(begin) + 1, _SMALL)])

        wanted = " or ".join(f"0000H{', ' * bool(one)}{one}" for one in sees.split(" or ")) if first else sees
        return visiting(name, wanted or "nothing", member.linger, *first, half, *end, contexts=_STORAGE)

    return visit


# ---- what is costly --------------------------------------------------------------------------------------


def endless(member: Member) -> Case:
    """An object that is said to be of 4 GiB: it is refused at the limit, or broken off by us."""
    limit = member.place.longest_object
    image = picture(member, 0)
    head = image.data_set[: -len(image.marker) - 4] + b"\xfe\xff\xff\xff"

    def play(scene: Scene) -> None:
        scene.send(p_data((3, 3, c_store_rq(image.uid))) + p_data((3, 0, head)))
        chunk = (p_data((3, 0, bytes(16376))) * 64 + p_data((3, 0, bytes(512)))) * 4
        for _ in range((limit or 64 * _MEGABYTE) // (4 * _MEGABYTE) + 1):
            if not scene.send(chunk):
                break
        if limit:
            scene.send(p_data((3, 2, b"")))
            scene.read(2 * PATIENCE)
        else:
            scene.send(ABORT)
            scene.read(2 * PATIENCE)

    return visiting(
        "endless", f"A7xxH or {ABORTED}" if limit else "closed", member.linger, play, contexts=_STORAGE
    )


def patterns(member: Member) -> Case:
    """Queries with patterns that are slow to match, ranges without sense, long lists, and what is no text."""
    random = member.random
    stars = b"*?" * random.randrange(1, 500)
    keys = random.choice(
        (
            element(0x00100010, stars),
            element(0x00100010, b"*" + b"a*" * 100),
            element(0x00100010, b"*%_[a-z]';--\\*"),
            element(0x00100020, b"[" * 64),
            element(0x00100020, random.randbytes(64)),
            element(0x00100010, b"A" * 20_000),
            element(0x00100010, b"\x1b$B" + random.randbytes(200)),
            element(0x00100030, b"99999999-00000000"),
            element(0x00100030, b"-" * 50),
            element(0x00100010, b"\\".join([b"*x*"] * 500)),
        )
    )
    study = "\\".join(wire.new_uid() for _ in range(random.choice((1, 1, 300))))
    asked = c_find(identifier("STUDY", study, keys))
    return visiting(
        "patterns",
        "2 x 0000H or A9xxH, 0000H or CxxxH, 0000H or matches, 2 x 0000H",
        *(member.linger, asked, read, p_data((3, 3, wire.ECHO_COMMAND))),
        contexts=_FINDING,
        answers=1,
    )


def finds_all(member: Member) -> Case:
    """Whatever there is is asked for by somebody who takes a little of it and is gone."""

    def play(scene: Scene) -> None:
        scene.send(c_find(identifier("STUDY", "", element(0x00100010, b"*"))))
        for _ in range(5):
            scene.peer.answer()
        scene.words.append("some")
        member.random.choice((close, reset))(scene)

    return visiting("finds all", "some", member.linger, play, contexts=_FINDING)


def cancels(member: Member) -> Case:
    """C-CANCELs of what is running, of what is not, and again and again; then C-ECHO."""
    many = b"".join(
        p_data((1, 3, command(0x0FFF, {0x0120: member.random.choice((9, 9, 8, 0, 65535))})))
        for _ in range(200)
    )

    def play(scene: Scene) -> None:
        scene.send(c_find(identifier("STUDY", "", element(0x00100010, b"*"))))
        scene.peer.answer()
        scene.send(many + p_data((1, 3, command(0x0FFF, {0x0120: 9}))))
        scene.read()
        scene.send(p_data((3, 3, wire.ECHO_COMMAND)))
        scene.read()

    return visiting(
        "cancels",
        "matches, FE00H, 0000H or FE00H, 0000H or matches, 2 x 0000H or 2 x 0000H",
        member.linger,
        play,
        contexts=_FINDING,
    )


# ---- mutations -------------------------------------------------------------------------------------------


def mutation(member: Member) -> Case:
    """A valid stream of bytes, a little changed: whatever that means, the connection ends when it does.

    With the same seed a member's first, second and third stream are the same again.
    """
    study, uid = (f"2.25.{member.random.getrandbits(120)}" for _ in range(2))
    image = picture(member, 20_000, study, uid)
    # Of a patient of their own: his name is what the latest object says, and others ask by that.
    stored = image.store.replace(b"CONFORMANCE ", b"MUTATED     ")
    items = (wire.context(1, uids.VERIFICATION, IMPLICIT), wire.context(3, CT, IMPLICIT))
    asking = wire.context(5, FIND, IMPLICIT)
    asked = c_find(identifier("STUDY", image.study, element(0x00100010, b"*")), number=5)
    stream = bytearray(
        member.target.titled(wire.rq_of(*items, asking)) + ECHO + stored + asked + ECHO + RELEASE_RQ
    )
    random = member.random
    for _ in range(random.choice((1, 1, 2, 5, 20))):
        # What is not the value of the pixels is more interesting.
        near = random.choice((300, 1200, len(stream)))
        at = random.randrange(min(near, len(stream)))
        what = random.randrange(5)
        if what < 2:
            stream[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
        elif what == 2:
            del stream[at : at + random.choice((1, 2, 4, 100))]
        elif what == 3:
            stream[at:at] = random.randbytes(random.choice((1, 2, 4, 100)))
        else:
            stream[at:at] = stream[at : at + random.choice((4, 100, 5000))]
    if random.random() < 0.2:
        del stream[random.randrange(len(stream)) :]
    sent = bytes(stream)

    def play(scene: Scene) -> None:
        scene.peer.send(sent)
        scene.peer.finish()

    return visiting("mutation", CLOSED, member.linger, play, closed_after(lambda scene: 0.0))
