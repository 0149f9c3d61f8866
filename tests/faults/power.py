"""A file system as pessimistic as POSIX allows: what is left of it when the power goes.

`Recorder` notes what a store asks the operating system for. `Disk` plays that back and says, at any point of
it, what may be there after a power cut: content only as far as it was forced out, names only in directories
that were forced out since, or any mixture of that and what was not. Nothing is kept for being in the order in
which it was done, as journalling file systems do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase


@attrs.frozen
class Call:
    """A call, or what somebody is told in between; paths are below the root of the store."""

    name: str
    arguments: tuple[Any, ...]


class Recorder:
    """Notes the calls of this process that change what is below `root`, while they are made."""

    def __init__(self, test: SynchronousTestCase, root: Path) -> None:
        self.calls: list[Call] = []
        self._root = f"{root}/"
        self._paths: dict[int, str] = {}
        instead = {
            **{
                name: self._noting(name, getattr(os, name))
                for name in ("link", "rename", "unlink", "mkdir", "rmdir")
            },
            **{name: self._writing(getattr(os, name)) for name in ("writev", "write")},
            **{name: self._syncing(name) for name in ("fdatasync", "fsync")},
            "open": self._opening(os.open),
            "symlink": self._linking(os.symlink),
        }
        self._patches = [test.patch(os, name, call) for name, call in instead.items()]

    def stop(self) -> None:
        """From now on nothing is noted."""
        for patch in self._patches:
            patch.restore()

    def note(self, name: str, *arguments: object) -> None:
        self.calls.append(Call(name, arguments))

    def _below(self, path: object) -> str | None:
        text = os.fspath(path)  # type: ignore[call-overload]
        if f"{text}/" == self._root:
            return "."
        return text.removeprefix(self._root) if text.startswith(self._root) else None

    def _noting(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*paths: Any, **more: Any) -> Any:
            result = real(*paths, **more)
            below = [self._below(path) for path in paths if not isinstance(path, int)]
            if None not in below:
                self.note(name, *below)
            return result

        return call

    def _opening(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, flags: int, *more: Any, **others: Any) -> Any:
            fd = real(path, flags, *more, **others)
            below = self._below(path)
            self._paths.pop(fd, None)
            if below is not None:
                self._paths[fd] = below
                if flags & os.O_CREAT:
                    self.note("create", below)
                self.note("open", fd, below)
            return fd

        return call

    def _linking(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: str, path: Any) -> None:
            real(target, path)
            self.note("symlink", target, self._below(path))

        return call

    def _writing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(fd: int, content: Any) -> Any:
            written = real(fd, content)
            if fd in self._paths:
                whole = content if isinstance(content, bytes) else b"".join(content)
                self.note("write", fd, whole[:written], os.fstat(fd).st_mtime_ns)
            return written

        return call

    def _syncing(self, name: str) -> Callable[[int], None]:
        """Takes no time here: it is the order that counts."""

        def call(fd: int) -> None:
            if fd in self._paths:
                self.note("sync", fd, name)

        return call


@attrs.define(eq=False)
class _File:
    content: bytes = b""
    #: What of it is on stable storage.
    durable: bytes = b""
    mtime_ns: int = 0


@attrs.define(eq=False)
class _Link:
    target: str


@attrs.define(eq=False)
class _Directory:
    entries: dict[str, Any] = attrs.Factory(dict)
    #: Those that are on stable storage.
    durable: dict[str, Any] = attrs.Factory(dict)


#: What is there after a power cut, by path: None for a directory, text for a symbolic link; a file as its
#: content, modification time and a number that its other names have too.
Tree = dict[str, str | tuple[bytes, int, int] | None]


class Disk:
    """Plays back calls."""

    def __init__(self) -> None:
        self._root = _Directory()
        self._open: dict[int, _File | _Directory] = {}

    def play(self, call: Call) -> None:
        """The next call has returned."""
        perform = getattr(self, f"_play_{call.name}", None)
        if perform is not None:
            perform(*call.arguments)

    def _find(self, path: str) -> Any:
        at: Any = self._root
        for name in Path(path).parts:
            at = at.entries[name]
        return at

    def _parent(self, path: str) -> tuple[dict[str, Any], str]:
        parent, _, name = path.rpartition("/")
        return self._find(parent).entries, name

    def _play_create(self, path: str) -> None:
        entries, name = self._parent(path)
        entries.setdefault(name, _File())

    def _play_open(self, fd: int, path: str) -> None:
        self._open[fd] = self._find(path)

    def _play_write(self, fd: int, content: bytes, mtime_ns: int) -> None:
        file = self._open[fd]
        assert isinstance(file, _File)
        file.content += content
        file.mtime_ns = mtime_ns

    def _play_sync(self, fd: int, _: str) -> None:
        what = self._open[fd]
        if isinstance(what, _File):
            what.durable = what.content
        else:
            what.durable = dict(what.entries)

    def _play_link(self, path: str, other: str) -> None:
        entries, name = self._parent(other)
        entries[name] = self._find(path)

    def _play_rename(self, path: str, other: str) -> None:
        self._play_link(path, other)
        self._play_unlink(path)

    def _play_unlink(self, path: str) -> None:
        entries, name = self._parent(path)
        del entries[name]

    def _play_symlink(self, target: str, path: str) -> None:
        entries, name = self._parent(path)
        entries[name] = _Link(target)

    def _play_mkdir(self, path: str) -> None:
        entries, name = self._parent(path)
        entries[name] = _Directory()

    _play_rmdir = _play_unlink

    # -- the power goes

    def after_power_cut(self) -> Iterator[Tree]:
        """All that may be there then, from the least on; some of it more than once."""
        pending = [each for each in self._directories(self._root) if each.entries != each.durable]
        chosen: list[list[_Directory]] = [[], pending]
        if len(pending) > 1:
            chosen += [[each] for each in pending]
            chosen += [[each for each in pending if each is not one] for one in pending]
        for kept in chosen:
            for all_content in (False, True):
                yield self._tree(set(map(id, kept)), all_content)

    def _directories(self, directory: _Directory) -> Iterator[_Directory]:
        """Those that are there now, or are on stable storage."""
        yield directory
        below = {
            id(each): each
            for entries in (directory.entries, directory.durable)
            for each in entries.values()
            if isinstance(each, _Directory)
        }
        for each in below.values():
            yield from self._directories(each)

    def _tree(self, kept: set[int], all_content: bool) -> Tree:
        tree: Tree = {}
        numbers: dict[int, int] = {}

        def fill(directory: _Directory, where: str) -> None:
            entries = directory.entries if id(directory) in kept else directory.durable
            for name, what in sorted(entries.items()):
                path = f"{where}{name}"
                if isinstance(what, _Directory):
                    tree[path] = None
                    fill(what, f"{path}/")
                elif isinstance(what, _Link):
                    tree[path] = what.target
                else:
                    # Of its length the file system may know, and not of its content.
                    lost = b"\0" * (len(what.content) - len(what.durable))
                    content = what.content if all_content else what.durable + lost
                    tree[path] = content, what.mtime_ns, numbers.setdefault(id(what), len(numbers))

        fill(self._root, "")
        return tree


def write_tree(tree: Tree, root: Path) -> None:
    """Make it, at a root that is not there."""
    files: dict[int, Path] = {}
    root.mkdir(parents=True)
    for name, what in tree.items():
        path = root / name
        if what is None:
            path.mkdir()
        elif isinstance(what, str):
            path.symlink_to(what)
        elif what[2] in files:
            os.link(files[what[2]], path)
        else:
            path.write_bytes(what[0])
            os.utime(path, ns=(what[1], what[1]))
            files[what[2]] = path
