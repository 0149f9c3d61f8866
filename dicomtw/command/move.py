"""``dicomtw move``: have a peer send to somebody (PS3.4 C.4.2)."""

from __future__ import annotations

from argparse import Namespace

from dicomtw.command import terminal
from dicomtw.command.exits import Exit
from dicomtw.command.identifier import SOP_CLASSES, Question, data_set_of, question_of
from dicomtw.command.peer import Peer, peer_of
from dicomtw.command.running import run as run_under_reactor
from dicomtw.dimse import status
from dicomtw.scu import Retrieval


def run(arguments: Namespace) -> int:
    """Have what the keys select sent, and say what became of it."""
    peer = peer_of(arguments)
    question = question_of(arguments).selecting()
    destination: str = arguments.to
    with terminal.Progress(None, "objects") as bar:
        retrieval: Retrieval = run_under_reactor(lambda: move(peer, question, destination, bar))
    return tell(retrieval, f"sent from {peer} to {destination}")


async def move(peer: Peer, question: Question, destination: str, bar: terminal.Progress) -> Retrieval:
    """C-MOVE; what became of it."""
    sop_class_uid = SOP_CLASSES[question.model][1]
    identifier = data_set_of(question.level, question.keys)
    async with peer.associate([sop_class_uid]) as scu:
        return await scu.c_move(
            identifier, destination, sop_class_uid=sop_class_uid, progress=lambda now: show(now, bar)
        )


def show(now: Retrieval, bar: terminal.Progress) -> None:
    """Show how far a retrieval has come."""
    done = now.completed + now.failed + now.warning
    bar.at(done, None if now.remaining is None else done + now.remaining)


def tell(retrieval: Retrieval, done: str) -> int:
    """Say what became of a retrieval; the exit status."""
    sent = retrieval.completed + retrieval.warning
    others = {"{} with warnings": retrieval.warning, "{} failed": retrieval.failed}
    counts = "".join(f", {text.format(count)}" for text, count in others.items() if count)
    terminal.result(f"{sent} object{'' if sent == 1 else 's'} {done}{counts}")
    for uid in retrieval.failed_sop_instance_uids:
        terminal.say(f"failed: {uid}", least=1)
    is_well = not retrieval.failed and status.category(retrieval.status) in _WELL
    return Exit.WELL if is_well else Exit.FAILED


#: A warning where nothing failed says that something was coerced on its way.
_WELL = (status.Category.SUCCESS, status.Category.WARNING)
