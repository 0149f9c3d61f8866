"""``dicomtw get``: have a peer send to us, on the association we ask on (PS3.4 C.4.3)."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dicomtw import uids
from dicomtw.command import terminal
from dicomtw.command.contexts import COMMON_SOP_CLASSES, contexts_to_receive
from dicomtw.command.exits import Fault
from dicomtw.command.find import ended_early
from dicomtw.command.identifier import SOP_CLASSES, UNIQUE, Key, Question, data_set_of, key_of, question_of
from dicomtw.command.move import show, tell
from dicomtw.command.peer import Peer, peer_of
from dicomtw.command.running import run as run_under_reactor
from dicomtw.errors import NotAccepted, OperationFailed, UnreadableDataSet
from dicomtw.scu import SCU, Retrieval
from dicomtw.services.storage import Storage
from dicomtw.storage.directory import DirectoryStore, Durability
from dicomtw.storage.index.database import INDEX
from dicomtw.ul.pdu import MAXIMUM_CONTEXTS

#: SOP classes that can be had on one association, beside the one of retrieval.
_ROOM = MAXIMUM_CONTEXTS - 1


def run(arguments: Namespace) -> int:
    """Have what the keys select sent here, and say what became of it."""
    peer = peer_of(arguments)
    question = question_of(arguments).selecting()
    directory: Path = arguments.output
    if (directory / INDEX).exists():
        raise Fault(f"{directory} is a server's store: have objects sent to the server, with dicomtw move")
    store = DirectoryStore(directory, Durability.STRICT if arguments.strict else Durability.RELAXED)
    try:
        store.prepare()
    except OSError as error:
        raise Fault(f"cannot use {directory}: {error.strerror}") from None
    try:
        with terminal.Progress(None, "objects") as bar:
            retrieval: Retrieval = run_under_reactor(lambda: get(peer, question, store, bar))
    finally:
        store.close()
    return tell(retrieval, f"from {peer} in {directory}")


async def get(peer: Peer, question: Question, store: DirectoryStore, bar: terminal.Progress) -> Retrieval:
    """C-GET; what became of it."""
    sop_class_uid = SOP_CLASSES[question.model][2]
    sop_classes = await sop_classes_of(peer, question)
    terminal.say(f"SOP classes to be had: {len(sop_classes) or 'not known'}", least=1)
    for name in map(uids.name_of, sop_classes[_ROOM:]):
        terminal.say(f"there is no room on the association for {name}: objects of it do not come")
    contexts = contexts_to_receive(sop_classes or COMMON_SOP_CLASSES, _ROOM)
    service = Storage(store, accept_unknown=True)
    async with peer.associate([sop_class_uid, *contexts], services=[service]) as scu:
        return await scu.c_get(
            data_set_of(question.level, question.keys),
            sop_class_uid=sop_class_uid,
            progress=lambda now: show(now, bar),
        )


async def sop_classes_of(peer: Peer, question: Question) -> list[str]:
    """The SOP classes of what is selected, as far as the peer answers queries; none if it does not."""
    sop_class_uid = SOP_CLASSES[question.model][0]
    try:
        async with peer.associate([sop_class_uid]) as scu:
            found = await _ask(scu, sop_class_uid, _FIRST[question.level], question.keys)
    except (NotAccepted, OperationFailed, UnreadableDataSet) as fault:
        terminal.say(f"SOP classes cannot be asked for: {fault}", least=1)
        return []
    return [*dict.fromkeys(found)]


#: Where to begin to ask, for what is at a level; where SOP classes are told, and where to go for the rest.
_FIRST = {"PATIENT": "STUDY", "STUDY": "STUDY", "SERIES": "IMAGE", "IMAGE": "IMAGE"}
_TOLD = {"STUDY": "SOPClassesInStudy", "IMAGE": "SOPClassUID"}
_BELOW = {"STUDY": "SERIES", "SERIES": "IMAGE"}


async def _ask(scu: SCU, sop_class_uid: str, level: str, keys: Sequence[Key]) -> list[str]:
    """The SOP classes of what `keys` select; what does not tell at one level is asked for at the next."""
    unique = UNIQUE[level]
    given = {key.column: key for key in keys if key.column in UNIQUE.values()}
    wanted = {name: key_of(name) for name in (unique, _TOLD.get(level)) if name}
    found: list[str] = []
    silent: list[str] = []
    identifier = data_set_of(level, [*(wanted | given).values()])
    matches = scu.c_find(identifier, sop_class_uid=sop_class_uid)
    async for match in matches:
        told = _values(match, _TOLD.get(level))
        found += told
        silent += [] if told else _values(match, unique)
    if matches.status:
        terminal.say(f"SOP classes: {ended_early(matches.status)}")
    for uid in silent if level in _BELOW else ():
        narrowed = given | {unique: key_of(f"{unique}={uid}")}
        found += await _ask(scu, sop_class_uid, _BELOW[level], [*narrowed.values()])
    return found


def _values(match: Any, keyword: str | None) -> list[str]:
    """The values of an attribute in a match."""
    value = match.get(keyword) if keyword else None
    return [] if not value else [str(value)] if isinstance(value, str) else [str(one) for one in value]
