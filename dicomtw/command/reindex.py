"""``dicomtw reindex``: the index of a store brought in line with its files, also while a server uses it."""

from __future__ import annotations

import os
import sqlite3
from argparse import Namespace
from contextlib import closing
from pathlib import Path

from dicomtw.command import terminal
from dicomtw.command.exits import Exit, Fault
from dicomtw.encoding import dictionary
from dicomtw.storage.index.attributes import Attributes, Level
from dicomtw.storage.index.database import FILE_NAME, INDEX, Index
from dicomtw.storage.index.rebuild import Rebuilt, is_study, rebuild
from dicomtw.storage.index.schema import TABLES


def run(arguments: Namespace) -> int:
    """Fill the index, and say what it has come to."""
    root: Path = arguments.store
    if not root.is_dir():
        raise Fault(f"{root}: no such directory")
    if not is_store(root):
        raise Fault(f"{root} is no store: there is no {INDEX} in it, and no STUDY/SERIES/INSTANCE.dcm")
    path = root / INDEX / FILE_NAME
    index = Index(path, Attributes(extra_attributes(path)), synchronous=True)
    index.open()
    try:
        with terminal.Progress(None, "objects") as bar:
            rebuilt = rebuild(root, index, bar.at, passed_over)
        counts = index.counts()
    finally:
        index.close()
    terminal.result(line(root, rebuilt, counts))
    return Exit.FAILED if rebuilt.unreadable else Exit.WELL


def is_store(root: Path) -> bool:
    """Whether a server or ``dicomtw get`` has kept objects in a directory."""
    if (root / INDEX).exists():
        return True
    studies = (root / name for name in os.listdir(root) if is_study(name))
    return any(True for study in studies for _ in study.glob("*/*.dcm"))


def passed_over(path: Path, why: str) -> None:
    """Tell of a file that is no object."""
    terminal.say(f"{path}: passed over: {why}")


def line(root: Path, rebuilt: Rebuilt, counts: tuple[int, int, int, int]) -> str:
    """What the index has, and what it took."""
    patients, studies, series, instances = counts
    others = {
        "{} new": rebuilt.read,
        "{} removed": rebuilt.removed,
        "{} passed over": rebuilt.unreadable,
    }
    more = "".join(f", {text.format(count)}" for text, count in others.items() if count)
    return f"{root}: patients: {patients}, studies: {studies}, series: {series}, objects: {instances}{more}"


def extra_attributes(path: Path) -> list[str]:
    """What an index has been made for besides the attributes of the table: these it is to keep."""
    if not path.exists():
        return []
    known = {each.keyword for every in Attributes().stored.values() for each in every}
    try:
        with closing(sqlite3.connect(path)) as connection:
            return [
                f"{level.value}:{column}"
                for level in Level
                for (column,) in connection.execute(_COLUMNS, (TABLES[level],))
                if column not in known and dictionary.by_keyword(column) is not None
            ]
    except sqlite3.Error:
        return []  # it will be made anew


_COLUMNS = "SELECT name FROM pragma_table_info(?)"
