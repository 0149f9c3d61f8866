"""Data sets in another transfer syntax, where a peer does not take the one they are in; pydicom does it.

pydicom is imported when this is first needed: most objects are sent as they are.
"""

from __future__ import annotations

import copy
import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from dicomtw import uids
from dicomtw.errors import UnreadableDataSet

#: Transfer syntaxes that can be made from any that can be read, best first.
TARGETS = (
    uids.EXPLICIT_VR_LITTLE_ENDIAN,
    uids.IMPLICIT_VR_LITTLE_ENDIAN,
    uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    uids.EXPLICIT_VR_BIG_ENDIAN,
)


#: A deflated identifier is inflated no further than this, in bytes: a peer's may be a bomb.
_MAXIMUM_INFLATED = 16 << 20


class CannotTranscode(ValueError):
    """Why an object cannot be had in another transfer syntax, or a data set cannot be encoded; one line."""


def transfer_syntax_of(data_set: Any) -> str:
    """How a `pydicom.Dataset` is encoded, by its File Meta Information; where that does not tell, how it was
    read. What is new is in Explicit VR Little Endian.
    """
    named = getattr(getattr(data_set, "file_meta", None), "TransferSyntaxUID", None)
    if named:
        return str(named)
    implicit, little_endian = data_set.original_encoding
    if little_endian is False:
        return uids.EXPLICIT_VR_BIG_ENDIAN
    return uids.IMPLICIT_VR_LITTLE_ENDIAN if implicit else uids.EXPLICIT_VR_LITTLE_ENDIAN


def encode(data_set: Any, transfer_syntax: str) -> bytes:
    """A `pydicom.Dataset`, encoded; raises `CannotTranscode` where pydicom cannot."""
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset
    from pydicom.uid import UID

    syntax = UID(transfer_syntax)
    target = DicomBytesIO()
    target.is_implicit_VR = transfer_syntax in uids.IMPLICIT_VR
    target.is_little_endian = transfer_syntax != uids.EXPLICIT_VR_BIG_ENDIAN
    try:
        if "PixelData" in data_set and syntax.is_transfer_syntax and not syntax.is_private:
            data_set["PixelData"].is_undefined_length = syntax.is_compressed  # PS3.5 A.4
        write_dataset(target, data_set)
    except Exception as error:  # whatever is wrong with a data set
        why = str(error).partition("\nTraceback")[0]  # which pydicom tells, too
        raise CannotTranscode(f"the data set cannot be encoded: {' '.join(why.split())}") from error
    encoded: bytes = target.getvalue()
    if transfer_syntax not in uids.DEFLATED:
        return encoded
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(encoded) + deflater.flush()
    return deflated + b"\0" * (len(deflated) % 2)


def decode(data_set: bytes, transfer_syntax: str) -> Any:
    """A `pydicom.Dataset` of an encoded data set, such as an identifier; raises `UnreadableDataSet`."""
    from pydicom.filereader import read_dataset

    if transfer_syntax in uids.DEFLATED:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data_set = inflater.decompress(data_set, _MAXIMUM_INFLATED)
        except zlib.error as error:
            raise UnreadableDataSet(f"the data set cannot be inflated: {error}") from None
        if inflater.unconsumed_tail:
            raise UnreadableDataSet(
                f"the data set is longer than {_MAXIMUM_INFLATED} bytes when it is inflated"
            )
    implicit = transfer_syntax in uids.IMPLICIT_VR
    try:
        return read_dataset(io.BytesIO(data_set), implicit, transfer_syntax != uids.EXPLICIT_VR_BIG_ENDIAN)
    except Exception as error:  # pydicom raises what it likes
        why = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableDataSet(f"the data set cannot be read: {why}") from error


def transcode(source: Path | BinaryIO | Any, transfer_syntaxes: Sequence[str]) -> tuple[str, bytes]:
    """An object in one of `transfer_syntaxes`: which one, and its data set.

    `source` is a file, or a `pydicom.Dataset`, which is left as it is. What is compressed is decompressed
    with pydicom's decoders, as far as they are installed. Blocks. Raises `CannotTranscode`.
    """
    target = next((uid for uid in TARGETS if uid in transfer_syntaxes), None)
    if target is None:
        raise CannotTranscode("only uncompressed transfer syntaxes can be made")
    try:
        from pydicom import dcmread
        from pydicom.uid import UID
    except Exception as error:  # not installed, or not for us to read
        raise CannotTranscode(f"pydicom cannot be loaded: {error or type(error).__name__}") from error
    try:
        is_file = hasattr(source, "read") or isinstance(source, Path)
        data_set: Any = dcmread(source, force=True) if is_file else source
        found = UID(transfer_syntax_of(data_set))
        is_encapsulated = found.is_encapsulated
        swap = (found == uids.EXPLICIT_VR_BIG_ENDIAN) != (target == uids.EXPLICIT_VR_BIG_ENDIAN)
        if data_set is source and (is_encapsulated or swap):
            data_set = copy.deepcopy(source)
        if is_encapsulated:
            data_set.decompress(generate_instance_uid=False)
        if swap:
            _swap(data_set)
    except Exception as error:  # decoders raise what they like
        raise CannotTranscode(f"it cannot be decompressed: {' '.join(str(error).split())}") from error
    return target, encode(data_set, target)


#: Bytes of a word in the values that pydicom keeps as they are encoded (PS3.5 Table 6.2-1).
_WORDS = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}


def _swap(data_set: Any) -> None:
    """Change the byte order of the words of a data set (PS3.5 7.3): the other values are numbers by now."""
    for element in data_set.iterall():
        size = _WORDS.get(element.VR, 1)
        if size > 1 and isinstance(element.value, bytes) and len(element.value) % size == 0:
            swapped = bytearray(len(element.value))
            for at in range(size):
                swapped[at::size] = element.value[size - 1 - at :: size]
            element.value = bytes(swapped)
