"""A case as data, the server it is put to, and the steps that its script is made of."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import attrs

from tests.conformance import wire
from tests.conformance.peer import Answer, Ended, Peer

#: What a case may need of a server, and how to say that it has it.
NEEDS: Mapping[str, str] = {
    "called-ae": "--has=called-ae: a server that refuses other called AE titles",
    "known-ae": "--has=known-ae: a server that refuses calling AE titles it does not know",
    "identity": "--has=identity: a server that checks user identities",
    "anonymous": "--has=anonymous: a server that sends no implementation version name",
    "default-ts": "--has=default-ts: a server that enforces the default transfer syntax",
    "limit": "--limit: the number of associations that the server takes",
    "files": "--files: the directory that the server keeps objects in",
    "pid": "--pid: the process of the server",
    "dead": "--dead: an AE title to which the server has a way, where nobody listens",
    "faults": "faults of the server's machine: see tests/interop",
}


@attrs.frozen(kw_only=True)
class Target:
    """A server, and what is known of it."""

    host: str
    port: int
    called: str = "ANY-SCP"
    calling: str = "CONFORMANCE"
    #: Seconds: the server's ARTIM; until what does not come is "silence"; until it must have recovered.
    artim: float = 30.0
    patience: float = 5.0
    recovery: float = 60.0
    has: frozenset[str] = frozenset()
    limit: int = 0
    files: Path | None = None
    pid: int | None = None
    dead: str = ""
    #: How many objects are stored to be found.
    matches: int = 1000
    #: The address of this machine that connections are made from; empty for any.
    source: str = ""
    #: Whether it is held to what we have decided where the standard leaves room.
    decided: bool = False

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    def titled(self, data: bytes) -> bytes:
        """`data` with the AE titles that belong there."""
        called, calling = (f"{title:16}".encode("ascii") for title in (self.called, self.calling))
        return data.replace(wire.CALLED, called).replace(wire.CALLING, calling)

    def lacks(self, needs: Collection[str]) -> str:
        """The first of `needs` that it does not have, in words; empty if it has all."""
        had = {"limit": self.limit, "files": self.files, "pid": self.pid, "dead": self.dead}
        for need in needs:
            if not had.get(need, need in self.has):
                return NEEDS[need]
        return ""


class NotApplicable(Exception):
    """The server does not do what the case is about."""


class Scene:
    """One case on its way: connections to the server, and what was seen so far."""

    def __init__(self, target: Target, details: Collection[int]) -> None:
        self.target = target
        self.words: list[str] = []
        self._details = details
        self._peers: list[Peer] = []
        self._associated = False
        #: Of objects, by marker: what their files were when they were last looked at.
        self.looked_at: dict[bytes, object] = {}
        #: When it began: files that are older are none of its own. Clocks of file systems are coarse.
        self.began = time.time() - 2
        #: What the server receives, in bytes.
        self.maximum_length = 0

    @property
    def peer(self) -> Peer:
        """The last connection."""
        return self._peers[-1]

    def connect(self, buffer: int = 0) -> Peer:
        """A further connection."""
        self._associated = False
        target = self.target
        self._peers.append(Peer(target.address, target.patience, buffer, target.source))
        return self.peer

    def send(self, data: bytes) -> bool:
        """Send all, with the AE titles that belong there; False if the server takes no more of it."""
        return self.peer.send(self.target.titled(data))

    def read(self, patience: float | None = None) -> Answer | None:
        """The next answer, which is said; None if none comes. Matches do not count."""
        try:
            while True:
                answer = self.peer.answer(patience)
                self.words.append(answer.words(self._details))
                if not answer.pending:
                    break
        except Ended as end:
            self.words.append(str(end))
            self._associated = False
            return None
        self._associated = answer.kind == 0x02 or (self._associated and not answer.ends)
        return answer

    def associate(self, *contexts: wire.Context, needed: Collection[int], sub_items: bytes = b"") -> None:
        """Associate; raises `NotApplicable` if a context that is needed is refused."""
        items = [wire.context(int(number), *map(str, names)) for number, *names in contexts]
        self.send(wire.rq_of(*items, sub_items=sub_items))
        answer = self.peer.answer()
        if answer.kind != 0x02:
            raise Ended(answer.words())
        refused = [number for number in needed if answer.results.get(number) != 0]
        if refused:
            names = dict.fromkeys(str(names[0]) for number, *names in contexts if number in refused)
            raise NotApplicable(f"refused: {', '.join(names)}")
        self.maximum_length = int.from_bytes(answer.sub_item(0x51) or b"", "big")
        self._associated = True

    def release(self) -> None:
        """Release the association, if there still is one, and close the connection."""
        if self.peer.is_open and self._associated:
            self.send(wire.RELEASE_RQ)
            try:
                answer = self.peer.answer()
                while answer.pending:
                    answer = self.peer.answer()
                said = answer.words()
            except Ended as end:
                said = str(end)
            if said != "RELEASE-RP":
                self.words.append(f"{said} to RELEASE-RQ")
        self._associated = False
        self.peer.close()

    def close(self) -> None:
        for peer in self._peers:
            peer.close()


Step = bytes | Callable[[Scene], None]


@attrs.frozen(kw_only=True)
class Case:
    """A row: what is sent, in words and as a script, and what must be seen.

    In `sees`, of which any may be seen, "·" stands for a number, "xx" for hexadecimal digits, "..." for
    anything. `decided` is what of it our own server does. With `contexts` the script is played in an
    association that proposes them. When it has been played, `answers` are read.
    """

    id: str
    part: str = ""
    sends: str
    sees: tuple[str, ...]
    decided: tuple[str, ...] = ()
    section: str
    script: tuple[Step, ...]
    answers: int = 1
    contexts: tuple[wire.Context, ...] = ()
    needed: tuple[int, ...] = (1,)
    needs: tuple[str, ...] = ()
    details: tuple[int, ...] = ()
    #: How much the server may grow meanwhile, in MiB, if its process is known.
    memory: int | None = None
    #: It waits for the server's timers, and may do so beside others.
    waits: bool = False

    @property
    def name(self) -> str:
        return f"{self.id} {self.part}".strip()

    def expected(self, target: Target) -> tuple[str, ...]:
        """What `target` may do; without its directory nothing is said of files."""
        wanted = self.decided if target.decided and self.decided else self.sees
        if target.files is None:
            wanted = tuple(re.sub(r", (?:no|\d+) files?[^,]*", "", one) for one in wanted)
        return wanted


def row(
    name: str, sends: str, sees: str, section: str, *script: Step, decided: str = "", **more: Any
) -> Case:
    """A case, whose name is its id and its part, and where " or " stands between what may be seen."""
    number, _, part = name.partition(" ")
    return Case(
        id=number,
        part=part,
        sends=sends,
        sees=tuple(sees.split(" or ")),
        decided=tuple(decided.split(" or ")) if decided else (),
        section=section,
        script=script,
        **more,
    )


def fits(pattern: str, said: str) -> bool:
    """Whether what was seen is what a pattern of `Case.sees` stands for."""
    found = re.escape(pattern).replace(re.escape("..."), ".*").replace("·", r"\d+")
    found = re.sub("x{2,}", lambda run: f"[0-9A-F]{{{len(run[0])}}}", found)
    return re.fullmatch(found, said) is not None


@attrs.frozen
class Result:
    """What became of a case."""

    case: Case
    #: "ok", "differs" or "not applicable"
    verdict: str
    seen: str


#: Bytes; a longer file is none of the images that are looked for.
_LARGEST = 8 << 20

# ---- steps ---------------------------------------------------------------------------------------------


def singly(data: bytes, pause: float = 0.0) -> Step:
    """Send bytes one by one, until the server takes no more; `pause` is a part of the ARTIM time."""

    def play(scene: Scene) -> None:
        for byte in scene.target.titled(data):
            if not scene.peer.send(bytes((byte,))):
                return
            time.sleep(pause * scene.target.artim)
            if pause and time.monotonic() - scene.peer.began > 1.5 * scene.target.artim:
                return

    return play


def read(scene: Scene) -> None:
    """Read an answer."""
    scene.read()


def read_at_leisure(scene: Scene) -> None:
    """Read an answer to what may take a server long."""
    scene.read(scene.target.recovery)


def again(*contexts: wire.Context) -> Step:
    """Release, and associate again on another connection."""

    def play(scene: Scene) -> None:
        scene.release()
        scene.connect()
        scene.associate(*contexts, needed=[int(one[0]) for one in contexts])

    return play


def closed_at_artim(scene: Scene) -> None:
    """Wait for the server to close the connection: not before the ARTIM time is up, and not later."""
    artim = scene.target.artim
    # A tenth is allowed, and what a busy machine takes.
    slack = 0.1 * artim + 0.5
    seconds = scene.peer.closed_after(artim + slack + 1)
    if seconds is None:
        scene.words.append(f"open after {artim + slack + 1:.1f} s")
    else:
        on_time = abs(seconds - artim) <= slack
        scene.words.append(f"closed {'at ARTIM' if on_time else 'after'} {seconds:.1f} s")


def closed_by_artim(scene: Scene) -> None:
    """Wait for the server to close the connection, at ARTIM at the latest."""
    artim = scene.target.artim
    began = time.monotonic()
    seconds = scene.peer.closed_after(began - scene.peer.began + 1.1 * artim + 0.5)
    if seconds is None:
        scene.words.append(f"open after {1.1 * artim + 0.5:.1f} s")
    else:
        scene.words.append(f"closed by ARTIM {time.monotonic() - began:.1f} s")


def close(scene: Scene) -> None:
    """Close the connection (FIN)."""
    scene.peer.close()


def reset(scene: Scene) -> None:
    """Close the connection (RST)."""
    scene.peer.reset()


def _holding(directory: Path, marker: bytes, since: float) -> list[Path]:
    """The files that hold an image, one of the names of each; what is on its way there is waited for.

    Our own server has a second name for it, or a part of it, in a directory that is hidden.
    """
    deadline = time.monotonic() + 1
    while True:
        found: dict[int, Path] = {}
        for path in sorted(directory.rglob("*")):
            try:
                stat = path.stat()
                wanted = path.is_file() and stat.st_size < _LARGEST and stat.st_mtime > since
                if wanted and marker in path.read_bytes():
                    found[stat.st_ino] = path
            except OSError:
                continue  # it has just gone
        on_its_way = any(path.parent.name.startswith(".") for path in found.values())
        if not on_its_way or time.monotonic() > deadline:
            return list(found.values())
        time.sleep(0.02)


def files(image: wire.Image, of: str = "") -> Step:
    """Say how many files hold an image, and whether its data set is in them as it was sent."""

    def play(scene: Scene) -> None:
        if scene.target.files is None:
            return
        found = _holding(scene.target.files, image.marker, scene.began)
        changed = any(not path.read_bytes().endswith(image.data_set) for path in found)
        number = f"{len(found) or 'no'} file{'s' * (len(found) > 1)}"
        scene.words.append(number + f" {of}" * bool(of) + " changed" * changed)

    return play


def look_at(image: wire.Image) -> Step:
    """Remember the files that hold an image."""

    def play(scene: Scene) -> None:
        scene.looked_at[image.marker] = _state(scene, image)

    return play


def as_before(image: wire.Image) -> Step:
    """Say whether the files that hold an image are still the ones that were looked at."""

    def play(scene: Scene) -> None:
        if scene.target.files is not None:
            same = scene.looked_at[image.marker] == _state(scene, image)
            scene.words.append("1 file as before" if same else "1 file written again")

    return play


def _state(scene: Scene, image: wire.Image) -> object:
    if scene.target.files is None:
        return None
    stats = [path.stat() for path in _holding(scene.target.files, image.marker, scene.began)]
    return [(stat.st_ino, stat.st_mtime_ns) for stat in stats]


def outside(path: str) -> Step:
    """Say so if there is a file `path`, which may be relative to the server's directory."""

    def play(scene: Scene) -> None:
        if scene.target.files is not None:
            directory = scene.target.files
            name = Path(path).name
            places = [Path("/tmp"), directory.parent, directory.parent.parent]
            if any(place.joinpath(name).exists() for place in places):
                scene.words.append("A FILE OUTSIDE")

    return play
