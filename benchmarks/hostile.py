"""Peers who mean harm, or are broken: what they send must cost nobody but themselves.

Each is a `Kind`, with the class of attack that it stands for. What it must see in the end is checked, as
with all: it shows that the attack is one, and that the server has done what it should. Many are cases of
tests/conformance, drawn anew for each visit.
"""

from __future__ import annotations

import functools
import ssl
import threading
from collections.abc import Callable

import attrs

from benchmarks.abuse import (
    ABORTED,
    CLOSED,
    RELEASED,
    broken_off,
    cancels,
    closed_after,
    endless,
    finds_all,
    mutation,
    never_reads,
    patterns,
    slow_store,
    visiting,
)
from benchmarks.crowd import Kind, Member
from tests.conformance import connection, negotiation, query, storage, transfer
from tests.conformance.case import Case, Scene, close, read, reset, singly
from tests.conformance.wire import (
    ABORT,
    ECHO,
    RELEASE_RQ,
    rq,
)

_closed_at_artim = closed_after(lambda scene: scene.target.artim)


# ---- slow and silent -------------------------------------------------------------------------------------


def _connects_only(_: Member) -> Case:
    return visiting("connects", CLOSED, _closed_at_artim)


def _three_bytes(_: Member) -> Case:
    return visiting("three bytes", CLOSED, rq()[:3], _closed_at_artim)


def _slow_rq(_: Member) -> Case:
    return visiting("slow RQ", CLOSED, singly(rq(), 1 / 30), _closed_at_artim)


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

    return visiting("storm", "AC 1:0, 0000H", play)


def _rejected(member: Member) -> Case:
    """Associations with an AE title that is not the server's, until the host is put off for a while."""
    nobody = rq(called=f"NOBODY{member.random.randrange(10**8)}".encode())

    def play(scene: Scene) -> None:
        for _ in range(20):
            scene.send(nobody)
            scene.read()
            scene.peer.close()
            scene.connect()
        why = set(scene.words)
        if why <= {"RJ(1,1,7)", "RJ(2,3,1)"}:
            scene.words[:] = [f"20 x {' or '.join(sorted(why))}"]

    return visiting("rejected", "20 x RJ(...", play)


# ---- what is no DICOM ------------------------------------------------------------------------------------


def _garbage(member: Member) -> Case:
    noise = member.random.randbytes(member.random.choice((1, 6, 100, 5000, 100_000)))
    begin = bytes((member.random.randrange(8, 256),))
    return visiting("garbage", ABORTED, member.linger, begin + noise.ljust(5), answers=1)


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
    return visiting("TLS", "AB(0,0)", member.linger, _client_hello(), answers=1)


def _web(member: Member) -> Case:
    page = member.random.choice((b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n", b"POST /" + b"A" * 100_000))
    sees = "AB(0,0)" if page.startswith(b"GET") else ABORTED
    return visiting("HTTP", sees, member.linger, page, answers=1)


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
    Kind("C-STORE byte by byte", "slow sender", 6, 1.0, slow_store),
    Kind("never reads", "slow reader", 4, 2.0, never_reads),
    Kind("connect and close, 50 times", "slots", 3, 5.0, _storm),
    Kind("called AE title unknown, 20 times", "slots", 5, 1.5, _rejected),
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
    Kind("A-ABORT inside an object", "broken off", 5, 2.0, broken_off("abort", "closed", ABORT, read)),
    Kind("FIN inside an object", "broken off", 4, 2.0, broken_off("FIN", "", close)),
    Kind("RST inside an object", "broken off", 3, 2.0, broken_off("RST", "", reset)),
    Kind("release inside an object", "broken off", 3, 2.0, broken_off("release", RELEASED, RELEASE_RQ, read)),
    Kind("UIDs that lie, or are paths", "paths", 4, 2.0, _case("S04", "S05", "S07", "S08", "S09", "S12")),
    Kind("bytes as data set", "types", 2, 2.0, _case("S13")),
    Kind("sequences nested deep", "nesting", 3, 6.0, _case("S18", "S19", "S20", "Q07")),
    Kind("deflated bomb", "bombs", 2, 15.0, _case("S21")),
    Kind("endless object", "resources", 2, 20.0, endless),
    Kind("C-FIND with patterns", "queries", 4, 2.0, patterns),
    Kind("C-FIND that makes no sense", "queries", 3, 2.0, _case("Q01", "Q02", "Q03", "Q04", "Q08")),
    Kind("C-FIND of all, then gone", "queries", 2, 5.0, finds_all),
    Kind("C-CANCEL, 200 times", "queries", 3, 4.0, cancels),
    Kind("mutated bytes", "anything", 10, 1.0, mutation),
)
