"""S01 to S27: objects that are stored (PS3.4 Annex B)."""

from __future__ import annotations

import zlib
from struct import pack
from uuid import uuid4

from tests.conformance import wire
from tests.conformance.case import (
    Case,
    Scene,
    Step,
    as_before,
    files,
    look_at,
    outside,
    read,
    read_at_leisure,
    row,
)
from tests.conformance.transfer import inside
from tests.conformance.wire import CT, DEFLATED, Image, c_store_rq, image, nested, p_data, store

_MEGABYTE = 1 << 20
_ANY = "xxxxH or AB(·,·)"
_REFUSED = "A9xxH, no file"


def _endless(megabytes: int) -> Step:
    """A C-STORE of so many MiB of pixels, in fragments that every server receives."""

    def play(scene: Scene) -> None:
        made = image(pixels=0)
        head = made.data_set[: -len(made.marker) - 4] + pack("<L", megabytes * _MEGABYTE)
        scene.send(p_data((3, 3, c_store_rq(made.uid))) + p_data((3, 0, head)))
        # 64 fragments are a MiB
        chunk = p_data((3, 0, bytes(16376))) * 64 + p_data((3, 0, bytes(512)))
        for _ in range(megabytes):
            if not scene.send(chunk):
                break
        scene.send(p_data((3, 2, b"")))
        scene.read(scene.target.recovery)

    return play


def _bomb() -> bytes:
    """A deflated data set of 400 kB, that is 400 MB when it is inflated, and has its names at the end."""
    size = 400 * _MEGABYTE
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    sent = deflater.compress(pack("<HH2sHL", 0x0008, 0x0001, b"UN", 0, size))
    sent += deflater.flush(zlib.Z_FULL_FLUSH)
    # After a full flush each block is the same.
    block = deflater.compress(bytes(_MEGABYTE)) + deflater.flush(zlib.Z_FULL_FLUSH)
    return sent + block * (size // _MEGABYTE) + deflater.flush()


def _duplicates() -> tuple[Case, ...]:
    one = image()
    first = image()
    second = image(first.uid, study=first.study)
    return (
        inside(
            "S02",
            "the same object twice",
            "2 x 0000H, 1 file as before or 2 x 0000H, 1 file written again",
            "policy",
            *(one.store, read, look_at(one), one.store, read, as_before(one)),
            answers=0,
            decided="2 x 0000H, 1 file as before",
        ),
        inside(
            "S03",
            "two objects of one UID",
            "2 x 0000H, ... or 0000H, 0111H, 1 file of the first, no file of the second",
            "policy",
            *(first.store, read, second.store, read),
            *(files(first, "of the first"), files(second, "of the second")),
            answers=0,
            # replace: the first is kept where superseded objects go
            decided="2 x 0000H, 1 file of the first, 1 file of the second",
        ),
    )


def _names() -> tuple[Case, ...]:
    def unsafe(name: str, prefix: str, what: str) -> Case:
        # Even if it is made somewhere it harms nobody.
        uid = f"{prefix}x{uuid4().hex[:12]}"
        made = image(uid)
        return inside(
            name,
            f"SOP Instance UID {what}",
            "0117H, no file or A9xxH, no file or CxxxH, no file or 0000H, 1 file",
            "5:9.1",
            *(made.store, read, files(made), outside(uid)),
            answers=0,
            decided="0117H, no file",
        )

    def named(name: str, what: str, uid: str, decided: str) -> Case:
        made = image(uid)
        return inside(
            name,
            f"SOP Instance UID {what}",
            "0000H, 1 file or 0117H, no file or A9xxH, no file or CxxxH, no file or AB(·,·), no file",
            "5:9.1",
            *(made.store, read, files(made)),
            answers=0,
            decided=decided,
        )

    digits = str(uuid4().int)[:12]
    refused = "0117H, no file"
    return (
        unsafe("S07", "../../", "../../x"),
        unsafe("S08", "/tmp/", "/tmp/x"),
        named("S09 ..", "..", "..", refused),
        named("S09 NUL", "with NUL inside", f"1.2\0.{digits}", refused),
        named("S09 65", "of 65 bytes", "1." * 32 + "1", refused),
        named("S11", "1.02.3", f"1.02.{digits}", "0000H, 1 file"),
        named("S12", "abc.def", f"abc.def.{digits}", refused),
    )


def _depths() -> tuple[Case, ...]:
    def deep(name: str, depth: int, sees: str, decided: str = "") -> Case:
        made = image(before=nested(depth))
        sends = f"sequences nested {depth} deep"
        return inside(name, sends, sees, "no crash", made.store, read_at_leisure, answers=0, decided=decided)

    return (
        deep("S18", 60, "0000H"),
        deep("S19", 2_000, _ANY, "0000H or CxxxH"),
        deep("S20", 100_000, _ANY, "0000H or CxxxH"),
    )


def _implicit() -> tuple[Case, ...]:
    def stored(name: str, sends: str, made: Image, sees: str, section: str, **more: str) -> Case:
        return inside(name, sends, sees, section, made.store, read, files(made), answers=0, **more)

    other = image()
    odd = image()
    half = len(odd.data_set) // 2 | 1
    named_otherwise = image(other.uid)
    garbage = image()
    return (
        stored("S01", "C-STORE", image(), "0000H, 1 file", "4:B.2.2"),
        inside(
            "S04",
            "SOP Instance UID in the data set is not the command's",
            _REFUSED,
            "4:B.2.3",
            *(store(wire.new_uid(), named_otherwise.data_set), read, files(named_otherwise)),
            answers=0,
        ),
        stored(
            "S05",
            "SOP Class UID in the data set is not the command's",
            image(sop_class="1.2.840.10008.5.1.4.1.1.4"),
            _REFUSED,
            "4:B.2.3",
        ),
        inside(
            "S05 context",
            "SOP Class UID in the command is not the context's",
            "A9xxH or 0122H",
            "7:C.5",
            store(wire.new_uid(), image().data_set, sop_class="1.2.840.10008.5.1.4.1.1.4"),
        ),
        inside(
            "S13",
            "bytes as data set; C-ECHO",
            "CxxxH, 0000H or A9xxH, 0000H",
            "4:B.2.3",
            *(store(garbage.uid, bytes(range(256)) * 8), read, wire.ECHO),
            decided="C000H, 0000H",
        ),
        inside(
            "S13 empty",
            "empty data set; C-ECHO",
            "CxxxH, 0000H or A9xxH, 0000H or A7xxH, 0000H",
            "4:B.2.3",
            *(store(garbage.uid, b""), read, wire.ECHO),
        ),
        inside(
            "S16",
            "fragments of odd length",
            "0000H, 1 file or AB(·,·), no file",
            "8:E.1",
            p_data((3, 3, c_store_rq(odd.uid)), (3, 0, odd.data_set[:half]), (3, 2, odd.data_set[half:])),
            *(read, files(odd)),
            answers=0,
            decided="0000H, 1 file",
        ),
    )


def _sizes() -> tuple[Case, ...]:
    deflated = image()
    return (
        row(
            "S21",
            "deflated data set, 400 kB that are 400 MB",
            "0000H or A7xxH or CxxxH or AB(·,·)",
            "resources",
            *(store(deflated.uid, _bomb(), 1), read_at_leisure),
            answers=0,
            contexts=((1, CT, DEFLATED),),
            memory=32,
        ),
        inside(
            "S22",
            "an object of 64 MiB",
            "0000H or A7xxH or AB(·,·)",
            "resources",
            _endless(64),
            answers=0,
            memory=16,
        ),
    )


def _faults() -> tuple[Case, ...]:
    faults = (
        ("S23", "disk full", "A7xxH, no file"),
        ("S24", "directory read-only", "A7xxH, no file"),
        ("S25", "fdatasync fails with EIO", "A7xxH, no file"),
        ("S26", "killed again and again", "what was answered is there"),
        ("S27", "index locked, read-only or deleted", "A7xxH or 0000H"),
    )
    return tuple(row(name, sends, sees, "4:B.2.3", needs=("faults",)) for name, sends, sees in faults)


def cases() -> tuple[Case, ...]:
    """The table, in the order of the ids."""
    rows = (*_implicit(), *_duplicates(), *_names(), *_depths(), *_sizes(), *_faults())
    return tuple(sorted(rows, key=lambda case: case.id))
