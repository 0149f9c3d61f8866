"""Peers who mean harm, or are broken: what they send must cost nobody but themselves.

Each is a `Kind`, with the class of attack that it stands for. What it must see in the end is checked, as
with all: it shows that the attack is one, and that the server has done what it should. Many are cases of
tests/conformance, drawn anew for each visit.
"""

from __future__ import annotations

import functools
import ssl
import threading
import time
from collections.abc import Callable

import attrs

from benchmarks.crowd import PATIENCE, Kind, Member
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
from tests.conformance import connection, negotiation, query, storage, transfer, wire
from tests.conformance.case import Case, Scene, Step, close, read, reset, row, singly
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
    rq,
)

_STORAGE = ((1, uids.VERIFICATION, IMPLICIT), (3, CT, IMPLICIT))
_FINDING = ((1, FIND, IMPLICIT), (3, uids.VERIFICATION, IMPLICIT))
_SMALL = 40_000
_MEGABYTE = 1 << 20
#: More than systems take for a peer who does not read.
_LARGE = 8 * _MEGABYTE

#: What a server must do with a connection that it gets nothing from, or nothing more.
_CLOSED = "closed in time"
_ABORTED = "AB(·,·) or closed or reset"
_RELEASED = f"RELEASE-RP or {_ABORTED}"


def _visit(
    name: str, sees: str, *script: Step, contexts: tuple[wire.Context, ...] = (), answers: int = 0
) -> Case:
    needed = tuple(int(one[0]) for one in contexts)
    return row(name, name, sees, "", *script, contexts=contexts, needed=needed, answers=answers)


def _closed(seconds: Callable[[Scene], float]) -> Step:
    """Wait for the server to close the connection, which it must do so many seconds after it was opened."""

    def play(scene: Scene) -> None:
        due = seconds(scene)
        limit = due + PATIENCE / 2
        closed = scene.peer.closed_after(limit)
        if closed is None:
            scene.words.append(f"open after {limit:.0f} s")
        else:
            scene.words.append(_CLOSED if closed > 0.8 * due else f"closed after {closed:.1f} s")
        scene.peer.close()

    return play


_closed_at_artim = _closed(lambda scene: scene.target.artim)


# ---- slow and silent -------------------------------------------------------------------------------------


def _connects_only(_: Member) -> Case:
    return _visit("connects", _CLOSED, _closed_at_artim)


def _three_bytes(_: Member) -> Case:
    return _visit("three bytes", _CLOSED, rq()[:3], _closed_at_artim)


def _slow_rq(_: Member) -> Case:
    return _visit("slow RQ", _CLOSED, singly(rq(), 1 / 30), _closed_at_artim)


def _slow_store(member: Member) -> Case:
    """A data set of a few bytes each second, for up to twice the DIMSE timeout, and whole in the end."""
    image = picture(member, 1000)
    sent = image.store
    seconds = member.random.uniform(0.5, 2) * member.place.dimse

    def play(scene: Scene) -> None:
        end = min(time.monotonic() + seconds, member.until)
        at = len(p_data((3, 3, c_store_rq(image.uid))))
        scene.send(sent[:at])
        while time.monotonic() < end and scene.send(sent[at : at + 3]):
            at += 3
            time.sleep(1.0)
        scene.send(sent[at:])
        answer = scene.read()
        if answer is not None and answer.number(0x0900) == 0:
            member.acknowledged(image)

    return _visit("slow C-STORE", f"0000H or {_ABORTED}", play, contexts=_STORAGE)


def _never_reads(member: Member) -> Case:
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
        cut = scene.peer.is_cut(1.2 * member.place.dimse + 2.5)
        seconds = time.monotonic() - scene.peer.began
        if not cut:
            cut = scene.peer.closed_after(seconds + 2.0) is not None
        early = time.monotonic() - began < 0.8 * member.place.dimse
        scene.words.append("early" if early else "cut off" if cut else "open")
        scene.peer.close()

    return _visit("never reads", "0000H, cut off" if first else "cut off", play)


# ---- slots -----------------------------------------------------------------------------------------------


def _storm(member: Member) -> Case:
    """Connections that are opened and closed at once; then somebody else is served."""

    def play(scene: Scene) -> None:
        opened = [scene.connect() for _ in range(50)]
        for peer in opened:
            if member.random.random() < 0.5:
                peer.reset()
            else:
                peer.close()
        other = f"127.2.{member.random.randrange(250)}.{member.random.randrange(1, 250)}"
        scene.target = attrs.evolve(member.target, source=other)
        scene.connect()
        scene.send(rq())
        scene.read()
        scene.send(ECHO)
        scene.read()

    return _visit("storm", "AC 1:0, 0000H", play)


def _rejected(member: Member) -> Case:
    """Associations with an AE title that is not the server's, one after the other."""
    nobody = rq(called=f"NOBODY{member.random.randrange(10**8)}".encode())

    def play(scene: Scene) -> None:
        for _ in range(19):
            scene.send(nobody)
            scene.read()
            scene.peer.close()
            scene.connect()

    return _visit("rejected", "20 x RJ(1,1,7)", play, nobody, answers=1)


# ---- what is no DICOM ------------------------------------------------------------------------------------


def _garbage(member: Member) -> Case:
    noise = member.random.randbytes(member.random.choice((1, 6, 100, 5000, 100_000)))
    begin = bytes((member.random.randrange(8, 256),))
    return _visit("garbage", _ABORTED, member.linger, begin + noise.ljust(5), answers=1)


@functools.cache
def _client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    try:
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="dicom.example").do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def _tls_hello(member: Member) -> Case:
    return _visit("TLS", "AB(0,0)", member.linger, _client_hello(), answers=1)


def _web(member: Member) -> Case:
    page = member.random.choice((b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n", b"POST /" + b"A" * 100_000))
    sees = "AB(0,0)" if page.startswith(b"GET") else _ABORTED
    return _visit("HTTP", sees, member.linger, page, answers=1)


# ---- inside a data set -----------------------------------------------------------------------------------


def _broken_off(name: str, sees: str, *end: Step) -> Callable[[Member], Case]:
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
        return _visit(name, wanted or "nothing", member.linger, *first, half, *end, contexts=_STORAGE)

    return visit


# ---- what is costly --------------------------------------------------------------------------------------


def _endless(member: Member) -> Case:
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

    return _visit(
        "endless", f"A7xxH or {_ABORTED}" if limit else "closed", member.linger, play, contexts=_STORAGE
    )


def _patterns(member: Member) -> Case:
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
    return _visit(
        "patterns",
        "2 x 0000H or A9xxH, 0000H or CxxxH, 0000H or matches, 2 x 0000H",
        *(member.linger, asked, read, p_data((3, 3, wire.ECHO_COMMAND))),
        contexts=_FINDING,
        answers=1,
    )


def _finds_all(member: Member) -> Case:
    """Whatever there is is asked for by somebody who takes a little of it and is gone."""

    def play(scene: Scene) -> None:
        scene.send(c_find(identifier("STUDY", "", element(0x00100010, b"*"))))
        for _ in range(5):
            scene.peer.answer()
        scene.words.append("some")
        member.random.choice((close, reset))(scene)

    return _visit("finds all", "some", member.linger, play, contexts=_FINDING)


def _cancels(member: Member) -> Case:
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

    return _visit(
        "cancels",
        "matches, FE00H, 0000H or FE00H, 0000H or matches, 2 x 0000H or 2 x 0000H",
        play,
        contexts=_FINDING,
    )


# ---- mutations -------------------------------------------------------------------------------------------


def _mutation(member: Member) -> Case:
    """A valid stream of bytes, a little changed: whatever that means, the connection ends when it does."""
    image = picture(member, 20_000)
    items = (wire.context(1, uids.VERIFICATION, IMPLICIT), wire.context(3, CT, IMPLICIT))
    asking = wire.context(5, FIND, IMPLICIT)
    asked = c_find(identifier("STUDY", image.study, element(0x00100010, b"*")), number=5)
    stream = bytearray(
        member.target.titled(wire.rq_of(*items, asking)) + ECHO + image.store + asked + ECHO + RELEASE_RQ
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

    return _visit("mutation", _CLOSED, member.linger, play, _closed(lambda scene: 0.0))


# ---- cases of tests/conformance --------------------------------------------------------------------------

_table: dict[str, list[Case]] = {}
_table_lock = threading.Lock()


def _cases() -> dict[str, list[Case]]:
    """The cases by id: made once, for a bomb is costly to make."""
    with _table_lock:
        if not _table:
            for part in (connection, negotiation, transfer, storage, query):
                for case in part.cases():
                    _table.setdefault(case.id, []).append(case)
    return _table


def _case(*ids: str) -> Callable[[Member], Case]:
    def visit(member: Member) -> Case:
        case = member.random.choice([case for number in ids for case in _cases()[number]])
        return attrs.evolve(case, script=(member.linger, *case.script))

    return visit


_COMMANDS = ("C81", "C83", "C84", "C85", "C86", "C87")
_CONTEXTS = ("C30", "C31", "C32", "C33", "C34", "C35", "C36", "C41")
_LENGTHS = ("C71", "C72", "C73", "C74", "C76", "C77", "C78")

KINDS = (
    Kind("connects, says nothing", "silence", 10, 1.0, _connects_only),
    Kind("3 bytes of RQ, silence", "silence", 8, 1.0, _three_bytes),
    Kind("RQ byte by byte", "slow sender", 6, 1.0, _slow_rq),
    Kind("C-STORE byte by byte", "slow sender", 6, 1.0, _slow_store),
    Kind("never reads", "slow reader", 4, 2.0, _never_reads),
    Kind("connect and close, 50 times", "slots", 3, 5.0, _storm),
    Kind("called AE title unknown, 20 times", "slots", 5, 4.0, _rejected),
    Kind("garbage", "no DICOM", 4, 2.0, _garbage),
    Kind("HTTP", "no DICOM", 3, 3.0, _web),
    Kind("TLS without TLS", "no DICOM", 3, 3.0, _tls_hello),
    Kind("PDU of a wrong kind", "state", 3, 2.0, _case("C05", "C07", "C08", "C09", "C10", "C11", "C12")),
    Kind("PDU out of turn", "state", 3, 2.0, _case("C66", "C67", "C68", "C69")),
    Kind("RQ of FFFFFFFFH bytes", "length", 3, 2.0, _case("C13")),
    Kind("malformed items", "length", 5, 2.0, _case("C14", "C15", "C16")),
    Kind("malformed P-DATA-TF", "length", 4, 2.0, _case(*_LENGTHS)),
    Kind("bad contexts", "negotiation", 5, 2.0, _case(*_CONTEXTS)),
    Kind("bad AE titles, versions, names", "negotiation", 3, 2.0, _case("C20", "C22", "C23", "C26", "C28")),
    Kind("bad commands", "types", 4, 2.0, _case(*_COMMANDS)),
    Kind("A-ABORT inside an object", "broken off", 5, 2.0, _broken_off("abort", "closed", ABORT, read)),
    Kind("FIN inside an object", "broken off", 4, 2.0, _broken_off("FIN", "", close)),
    Kind("RST inside an object", "broken off", 3, 2.0, _broken_off("RST", "", reset)),
    Kind(
        "release inside an object", "broken off", 3, 2.0, _broken_off("release", _RELEASED, RELEASE_RQ, read)
    ),
    Kind("UIDs that lie, or are paths", "paths", 4, 2.0, _case("S04", "S05", "S07", "S08", "S09", "S12")),
    Kind("bytes as data set", "types", 2, 2.0, _case("S13")),
    Kind("sequences nested deep", "nesting", 3, 6.0, _case("S18", "S19", "S20", "Q07")),
    Kind("deflated bomb", "bombs", 2, 15.0, _case("S21")),
    Kind("endless object", "resources", 2, 20.0, _endless),
    Kind("C-FIND with patterns", "queries", 4, 2.0, _patterns),
    Kind("C-FIND that makes no sense", "queries", 3, 2.0, _case("Q01", "Q02", "Q03", "Q04", "Q08")),
    Kind("C-FIND of all, then gone", "queries", 2, 5.0, _finds_all),
    Kind("C-CANCEL, 200 times", "queries", 3, 4.0, _cancels),
    Kind("mutated bytes", "anything", 10, 1.0, _mutation),
)
