"""The presentation contexts that files need (PS3.8 7.1.1.13): pure functions of what they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from dicomtw import uids
from dicomtw.client import Context
from dicomtw.command.files import Found
from dicomtw.services import FALLBACK
from dicomtw.storing import contexts_of
from dicomtw.ul.pdu import MAXIMUM_CONTEXTS


@attrs.frozen
class Batch:
    """Files that can be sent on one association, and the contexts to propose for them."""

    contexts: tuple[Context, ...]
    files: tuple[Found, ...]


def batches(files: Iterable[Found], *, as_is: bool = False, limit: int = MAXIMUM_CONTEXTS) -> list[Batch]:
    """`files` in as few batches as 128 contexts each make; those of one SOP class stay together.

    `as_is`: propose no transfer syntax but the files' own.
    """
    by_class: dict[str, list[Found]] = {}
    for file in files:
        by_class.setdefault(file.sop_class_uid, []).append(file)
    made: list[Batch] = []
    contexts: list[Context] = []
    chosen: list[Found] = []
    for sop_class_uid, members in by_class.items():
        own = dict.fromkeys(file.transfer_syntax_uid for file in members)
        needed = contexts_of(sop_class_uid, tuple(own), as_is=as_is)[:limit]
        if len(contexts) + len(needed) > limit:
            made.append(Batch(tuple(contexts), tuple(chosen)))
            contexts, chosen = [], []
        contexts += needed
        chosen += members
    return [*made, Batch(tuple(contexts), tuple(chosen))] if chosen else made


#: Transfer syntaxes for objects to come as they are, besides those of `FALLBACK`, the frequent ones first.
COMPRESSED = (
    "1.2.840.10008.1.2.4.70",  # JPEG Lossless SV1
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.50",  # JPEG Baseline
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.80",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.5",  # RLE Lossless
    "1.2.840.10008.1.2.4.51",  # JPEG Extended
    "1.2.840.10008.1.2.4.81",  # JPEG-LS Near-lossless
    "1.2.840.10008.1.2.4.57",  # JPEG Lossless
    "1.2.840.10008.1.2.4.102",  # MPEG-4 AVC/H.264 High Profile
    "1.2.840.10008.1.2.4.103",  # MPEG-4 AVC/H.264 BD-compatible
    "1.2.840.10008.1.2.4.100",  # MPEG2 Main Profile, Main Level
    "1.2.840.10008.1.2.4.101",  # MPEG2 Main Profile, High Level
    "1.2.840.10008.1.2.4.107",  # HEVC/H.265 Main Profile
    "1.2.840.10008.1.2.4.108",  # HEVC/H.265 Main 10 Profile
    "1.2.840.10008.1.2.4.201",  # HTJ2K Lossless
    "1.2.840.10008.1.2.4.202",  # HTJ2K Lossless RPCL
    "1.2.840.10008.1.2.4.203",  # HTJ2K
    "1.2.840.10008.1.2.4.110",  # JPEG XL Lossless
    "1.2.840.10008.1.2.4.112",  # JPEG XL
    uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    uids.EXPLICIT_VR_BIG_ENDIAN,
)

#: Storage SOP classes that are asked for where nobody can say which there are.
COMMON_SOP_CLASSES = tuple(
    f"1.2.840.10008.5.1.4.1.1.{last}"
    for last in (
        *("2", "4", "128", "20", "1", "1.1", "7", "66.4", "88.59"),  # CT MR PET NM CR DX SC SEG KO
        *("2.1", "4.1", "4.2", "4.3", "128.1", "130"),  # enhanced CT, MR, PET
        *("481.1", "481.2", "481.3", "481.4", "481.5", "481.6", "481.8"),  # radiotherapy
        *("6.1", "6.2", "3.1", "1.1.1", "1.2", "1.2.1", "13.1.3"),  # US, DX, mammography
        *("12.1", "12.1.1", "12.2", "12.2.1", "13.1.1", "13.1.2"),  # angiography
        *("7.1", "7.2", "7.3", "7.4"),  # multi-frame secondary capture
        *("11.1", "88.11", "88.22", "88.33", "88.34", "88.67", "88.50"),  # GSPS, reports
        *("104.1", "104.2", "104.3", "66", "66.1", "66.2", "66.3", "67", "30"),  # documents, derived
        *("77.1.1", "77.1.4", "77.1.5.1", "77.1.5.4", "77.1.6"),  # visible light
        *("9.1.1", "9.1.2", "9.1.3"),  # ECG
    )
)


def contexts_to_receive(sop_classes: Sequence[str], room: int) -> list[Context]:
    """`room` contexts at most in which a peer may send objects of these SOP classes.

    What is uncompressed has a context for each SOP class, and where there is room each other transfer syntax
    has one, too, so that the peer can send all objects as they are; where there is not they share some.
    """
    sop_classes = sop_classes[:room]
    share = room // max(1, len(sop_classes)) - 1
    alone = [(uid,) for uid in (uids.IMPLICIT_VR_LITTLE_ENDIAN, *COMPRESSED)]
    groups = alone if share >= len(alone) else [COMPRESSED[at::share] for at in range(share)]
    return [
        (sop_class_uid, transfer_syntaxes)
        for sop_class_uid in sop_classes
        for transfer_syntaxes in (FALLBACK, *groups)
    ]
