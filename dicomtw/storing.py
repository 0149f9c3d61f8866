"""What is to be stored: the presentation contexts it needs, and its data set for one that is accepted."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import attrs

from dicomtw.requestor import RequestedAssociation
from dicomtw.services import FALLBACK, DataSetSource
from dicomtw.storage.data_set_file import DataSetFile, open_data_set
from dicomtw.transcode import CannotTranscode, encode, transcode, transfer_syntax_of
from dicomtw.ul.negotiation import AcceptedContext


def contexts_of(
    sop_class_uid: str, transfer_syntaxes: Collection[str], *, as_is: bool = False
) -> list[tuple[str, tuple[str, ...]]]:
    """A context for each transfer syntax alone, which an acceptor then takes as it is or not at all; and one
    for what is left to fall back on, unless all is to be sent `as_is`.
    """
    own: list[tuple[str, tuple[str, ...]]] = [(sop_class_uid, (uid,)) for uid in transfer_syntaxes]
    rest = tuple(uid for uid in FALLBACK if uid not in transfer_syntaxes)
    return own if as_is or not rest else [*own, (sop_class_uid, rest)]


def storage_contexts(paths: Iterable[Path | str]) -> list[tuple[str, tuple[str, ...]]]:
    """The presentation contexts to propose for storing files: one for each transfer syntax alone, which a
    peer accepts or not, and for each SOP class one to fall back on.

    Blocks. Raises `OSError`, and `ValueError` for what is no DICOM file.
    """
    kinds: dict[str, dict[str, None]] = {}
    for path in paths:
        file = open_data_set(Path(path).resolve())
        file.close()
        kinds.setdefault(file.sop_class_uid, {})[file.transfer_syntax_uid] = None
    return [context for sop_class_uid, own in kinds.items() for context in contexts_of(sop_class_uid, own)]


@attrs.frozen
class Prepared:
    """An object that can be sent: the context it goes in, and its data set for that."""

    context: AcceptedContext
    sop_instance_uid: str
    data_set: DataSetSource


def prepare(source: Any, association: RequestedAssociation, *, transcoded: bool) -> Prepared:
    """What `SCU.c_store` sends of `source`: the data set as it is, where its transfer syntax is accepted; if
    it is not, and `transcoded`, in one that is.

    Blocks. Raises `NotAccepted`, `OSError`, and `ValueError` for what is no DICOM file.
    """
    file: DataSetFile | None = None
    with contextlib.ExitStack() as opened, contextlib.ExitStack() as unsent:
        if isinstance(source, str | Path):
            source = Path(source).resolve()
            file = open_data_set(source)
        elif hasattr(source, "read"):
            source = _file(source, opened)
            file = _at_data_set(source)
        if file is not None:
            unsent.callback(file.close)
        sop_class_uid, sop_instance_uid, transfer_syntax = _about(source if file is None else file)
        contexts = association.contexts_for(sop_class_uid)
        context = next((one for one in contexts if one.transfer_syntax == transfer_syntax), None)
        if context is not None and file is not None:
            unsent.pop_all()
            return Prepared(context, sop_instance_uid, file)
        if context is not None:
            return Prepared(context, sop_instance_uid, io.BytesIO(encode(source, transfer_syntax)))
        if not transcoded:
            raise association.not_accepted(sop_class_uid, transfer_syntax)
        try:
            chosen, data_set = transcode(source, [one.transfer_syntax for one in contexts])
        except CannotTranscode as why:
            raise association.not_accepted(sop_class_uid, transfer_syntax, str(why)) from None
        context = next(one for one in contexts if one.transfer_syntax == chosen)
        return Prepared(context, sop_instance_uid, io.BytesIO(data_set))


def _about(source: Any) -> tuple[str, str, str]:
    """SOP class, SOP instance and transfer syntax of a file or a `pydicom.Dataset`; raises `ValueError`."""
    if isinstance(source, DataSetFile):
        return source.sop_class_uid, source.sop_instance_uid, source.transfer_syntax_uid
    try:
        sop_class_uid, sop_instance_uid = str(source.SOPClassUID), str(source.SOPInstanceUID)
    except AttributeError as error:
        raise ValueError(f"the data set cannot be stored: {error}") from None
    return sop_class_uid, sop_instance_uid, transfer_syntax_of(source)


def _file(source: Any, opened: contextlib.ExitStack) -> Any:
    """What is open for reading bytes, as a file of the operating system, at its beginning."""
    file = source
    if not isinstance(getattr(source, "raw", source), io.FileIO):  # a member of an archive, say
        file = tempfile.TemporaryFile()  # noqa: SIM115
        opened.callback(file.close)
        if source.seekable():
            source.seek(0)
        shutil.copyfileobj(source, file)
    file.seek(0)
    return file


def _at_data_set(file: Any) -> DataSetFile:
    """The same file, open once more."""
    fd = os.dup(file.fileno())
    try:
        return DataSetFile(fd)
    except BaseException:
        os.close(fd)
        raise
