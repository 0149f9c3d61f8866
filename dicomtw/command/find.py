"""``dicomtw find``: what a peer has (PS3.4 C.4.1)."""

from __future__ import annotations

import sys
from argparse import Namespace
from contextlib import aclosing

from dicomtw.command import terminal
from dicomtw.command.exits import Exit, Fault
from dicomtw.command.identifier import SOP_CLASSES, Question, data_set_of, question_of
from dicomtw.command.output import Form, Written, form_of
from dicomtw.command.peer import Peer, peer_of
from dicomtw.command.running import in_thread
from dicomtw.command.running import run as run_under_reactor


def run(arguments: Namespace) -> int:
    """Ask, and write what is found."""
    peer = peer_of(arguments)
    question = question_of(arguments).with_usual_keys()
    form = form_of(arguments.format or ("table" if sys.stdout.isatty() else "json"), question.columns)
    found: int = run_under_reactor(lambda: find(peer, question, form, Written(in_thread)))
    terminal.say(f"{found} matches", least=1)
    return Exit.WELL


def ended_early(status: int) -> str:
    """A query that the peer has ended with another status than success or failure, in words."""
    return f"the peer may not have told all: it ended the query with status {status:04X}H"


async def find(peer: Peer, question: Question, form: Form, written: Written) -> int:
    """Write the matches as they come; how many there are. Raises `Fault` where the peer does not tell all."""
    identifier = data_set_of(question.level, question.keys)
    sop_class_uid = SOP_CLASSES[question.model][0]
    found = 0
    async with peer.associate([sop_class_uid]) as scu:
        matches = scu.c_find(identifier, sop_class_uid=sop_class_uid)
        async with aclosing(matches):
            await written.write(form.begin())
            async for match in matches:
                found += 1
                await written.write(form.match(match))
        await written.write(form.end())
        await written.flush()
    if matches.unsupported_keys:
        terminal.say("the peer does not support all of these keys", least=1)
    if matches.status:
        raise Fault(f"{ended_early(matches.status)} after {found} matches", Exit.FAILED)
    return found
