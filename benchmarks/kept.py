"""Whether what a server has acknowledged is there: on disk, by C-FIND and by C-GET."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from random import Random

from benchmarks.crowd import PATIENCE, Stored, digest
from benchmarks.good import (
    FIND,
    GET,
    associating_to_get,
    c_find,
    identifier,
    series_of,
    taken,
    uid_of,
    value_of,
)
from dicomtw.storage.part10 import read_head
from tests.conformance.case import Scene, Target
from tests.conformance.peer import Ended
from tests.conformance.wire import IMPLICIT, command, element, message


def on_disk(store: Path, stored: Mapping[str, Stored]) -> list[str]:
    """What is wrong with the files of acknowledged objects."""
    wrong = []
    for one in stored.values():
        try:
            data = (store / one.study / f"{one.study[:62]}.1" / f"{one.uid}.dcm").read_bytes()
        except OSError as error:
            wrong.append(f"{one.uid}: {error.strerror}")
            continue
        if digest(data[read_head(data).data_set_offset :]) != one.digest:
            wrong.append(f"{one.uid}: another data set")
    return wrong


def moved(store: Path, stored: Mapping[str, Stored]) -> tuple[int, list[str]]:
    """How many objects another server has, and what is wrong with them."""
    number, wrong = 0, []
    for path in store.glob("[0-9]*/*/*.dcm"):
        number += 1
        data = path.read_bytes()
        one = stored.get(path.stem)
        if one is None or digest(data[read_head(data).data_set_offset :]) != one.digest:
            wrong.append(path.stem)
    return number, wrong


def by_find(target: Target, stored: Mapping[str, Stored]) -> list[str]:
    """The acknowledged objects that a C-FIND of their study does not find, or finds twice."""
    by_study: dict[str, list[str]] = defaultdict(list)
    for one in stored.values():
        by_study[one.study].append(one.uid)
    scene = Scene(target, ())
    wrong = []
    try:
        scene.connect()
        scene.associate((1, FIND, IMPLICIT), needed=[1])
        for study, due in by_study.items():
            keys = identifier("IMAGE", study, behind=series_of(study))
            scene.send(c_find(element(0x00080018, b"") + keys))
            found = []
            answer = scene.peer.answer(PATIENCE)
            while answer.pending:
                found.append(value_of(answer.body, 0x00080018))
                answer = scene.peer.answer(PATIENCE)
            wrong += [uid for uid in due if found.count(uid) != 1]
            if answer.number(0x0900) != 0:
                wrong.append(answer.words())
        scene.release()
    except (Ended, OSError) as error:
        wrong.append(f"C-FIND ended: {error}")
    finally:
        scene.close()
    return wrong


def by_get(target: Target, stored: Mapping[str, Stored], studies: int, seed: int) -> tuple[int, list[str]]:
    """How many objects a C-GET of some studies has brought, and those that are missing or not the same."""
    names = sorted({one.study for one in stored.values()})
    chosen = set(Random(seed).sample(names, min(studies, len(names))))
    due = {one.uid: one.digest for one in stored.values() if one.study in chosen}
    number = len(due)
    scene = Scene(target, ())
    try:
        scene.connect()
        associating_to_get(scene)
        for study in sorted(chosen):
            asked = command(0x0010, {0x0002: GET, 0x0110: 9, 0x0700: 0}, True)
            scene.send(message(1, asked, identifier("STUDY", study)))
            while True:
                answer = scene.peer.answer(PATIENCE)
                if answer.number(0x0100) == 0x0001:
                    uid = uid_of(answer)
                    if due.get(uid) == digest(answer.body):
                        del due[uid]
                    scene.send(taken(answer))
                elif not answer.pending:
                    break
        scene.release()
    except (Ended, OSError) as error:
        return number, [f"C-GET ended: {error}", *due]
    finally:
        scene.close()
    return number, list(due)
