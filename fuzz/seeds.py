"""``python -m fuzz.seeds``: write the corpus that the targets start from.

Its inputs are made with our encoders, and of files of pydicom.

Inputs that were findings once are not made here; they stay in the corpus as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydicom.data import get_charset_files, get_testdata_file

from dicomtw import uids
from dicomtw.dimse.messages import C_CANCEL_RQ, C_ECHO_RQ, C_FIND_RQ, C_STORE_RQ, MESSAGE_TYPES
from dicomtw.encoding import character_sets, data_set, dictionary
from dicomtw.encoding.data_set import Element
from dicomtw.storage.part10 import FileMeta, read_head
from dicomtw.testing import associate_rq, message
from dicomtw.ul.items import (
    AsynchronousOperationsWindow,
    PresentationContextAC,
    RoleSelection,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityRQ,
)
from dicomtw.ul.pdu import A_ABORT, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_RELEASE_RP, A_RELEASE_RQ
from fuzz import associations as script
from fuzz.parsers import SYNTAXES
from fuzz.queries import attributes, matched
from fuzz.targets import CORPUS

_CT = "1.2.840.10008.5.1.4.1.1.2"
_UIDS = {"StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.1", "SOPInstanceUID": "1.1.1.1"}
#: Small ones of pydicom's.
_FILES = ("chrH31.dcm", "chrX1.dcm", "nested_priv_SQ.dcm", "UN_sequence.dcm", "no_meta_group_length.dcm")
_KEYS: tuple[dict[str, Any], ...] = (
    {"PatientName": "doe^*", "PatientID": "1CT1", "StudyDate": "20200101-", "StudyInstanceUID": ""},
    {"PatientName": "=山田^*", "StudyTime": "1000-103000.5", "ModalitiesInStudy": "MR\\CT"},
    {**_UIDS, "Rows": "", "SOPInstanceUID": "1.1.1.1\\1.2.1.1", "AcquisitionDateTime": "2020-2021"},
    {**_UIDS, "RequestAttributesSequence": ({"ScheduledProcedureStepID": "SPS?"},), "Modality": "*"},
)
_MATCHED = {
    "PatientName": ("doe*", "=山*", "M?LLER^", "yamada^tarou=*=*"),
    "StudyDate": ("20200101-20201231", "-2019", "1999.12.31"),
    "StudyTime": ("10-11", "1030", "235959.5"),
    "AcquisitionDateTime": ("2020", "20200131225959.25+0000-", "2020-2021"),
    "OtherPatientIDs": ("B%\\A", "c_", "?"),
    "PatientWeight": ("70.50",),
    "PatientComments": ("*\\*!_*",),
    "InstanceNumber": ("-07",),
    "SOPInstanceUID": ("1.1.1.1\\1.2.1.1",),
}


#: Keywords, how often the key is doubled, and the key.
_LONG = (
    ("OtherPatientIDs", 14, "\U00020000"),
    ("OperatorsName", 8, "a*\\b^*"),
    ("PatientName", 13, "^*"),
    ("PatientName", 11, "a\u0301\u0316"),
    ("SOPInstanceUID", 12, "1.2\\"),
    ("ImageType", 7, "A?\\"),
)


def _content(name: str) -> bytes:
    path = get_testdata_file(name, download=False) or get_charset_files(name)[0]
    return Path(str(path)).read_bytes()


def _elements(values: dict[str, Any], terms: tuple[str, ...] = ("ISO_IR 192",)) -> list[Element]:
    elements = []
    for keyword, value in values.items():
        attribute = dictionary.by_keyword(keyword)
        assert attribute is not None, keyword
        encoded: Any = (
            tuple({each.tag: each for each in _elements(item)} for item in value)
            if isinstance(value, tuple)
            else character_sets.encode(value, terms)
        )
        elements.append(Element(attribute.tag, attribute.vr, encoded))
    return elements


def _identifiers() -> Iterator[bytes]:
    for number, keys in enumerate(_KEYS):
        for flags, syntax in enumerate(SYNTAXES):
            level = "STUDY" if number < 2 else "IMAGE"
            named = {"SpecificCharacterSet": "ISO_IR 192", "QueryRetrieveLevel": level, **keys}
            yield bytes((flags | 16 * (1 + 2 * (number % 2)),)) + data_set.encode(_elements(named), syntax)


def _objects() -> Iterator[bytes]:
    """Transfer syntax and data set."""
    for name in _FILES:
        content = _content(name)
        head = read_head(content)
        syntax = SYNTAXES.index(head.transfer_syntax_uid) if head.transfer_syntax_uid in SYNTAXES else 1
        yield bytes((syntax,)) + content[head.data_set_offset :][:1000]
    for flags, each in enumerate(attributes().stored.values()):
        text = {attribute.keyword: "1" for attribute in each if attribute.vr != "SQ"}
        values = {"SOPClassUID": _CT, **text, **_UIDS, "PatientName": "A^B=ÄÖ"}
        values["RequestAttributesSequence"] = _KEYS[3]["RequestAttributesSequence"]
        yield bytes((flags,)) + data_set.encode(_elements(values), SYNTAXES[flags])
    item = b"\x40\0\x75\x02UN\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff\x08\0\0\1\2\0\0\0AB"
    ends = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    yield b"\1" + data_set.encode(_elements(_UIDS), SYNTAXES[1]) + item + ends


def _streams() -> Iterator[bytes]:
    rq = associate_rq(
        script.CONTEXTS,
        AsynchronousOperationsWindow(4, 4),
        RoleSelection(_CT, True, True),
        SOPClassExtendedNegotiation(uids.STUDY_ROOT_FIND, b"\1\1\1"),
        SOPClassCommonExtendedNegotiation(_CT, "1.2.840.10008.4.2", (_CT,)),
        UserIdentityRQ(2, True, b"name", b"passcode"),
    )
    contexts = tuple(
        PresentationContextAC(each, each % 4 and 3, uid[1]) for each, uid in script.CONTEXTS.items()
    )
    ac = A_ASSOCIATE_AC(rq.called_ae_title, rq.calling_ae_title, contexts, rq.user_information)
    echo = b"".join(message(1, C_ECHO_RQ(affected_sop_class_uid=uids.VERIFICATION, message_id=1)))
    release = A_RELEASE_RQ().encode(), A_RELEASE_RP().encode()
    simple = associate_rq({1: script.CONTEXTS[1]}).encode()
    yield simple + echo + release[0]
    yield rq.encode() + echo + A_ABORT(0).encode()
    yield ac.encode() + echo + release[0] + release[1]
    yield A_ASSOCIATE_RJ(1, 1, 3).encode()
    yield simple + echo.replace(b"\1\3", b"\xfb\3", 1) + release[1]
    yield simple + b"\x16\3\1\2\0\1" + b"GET / HTTP/1.1\r\n"


def _commands() -> Iterator[bytes]:
    yield C_ECHO_RQ(affected_sop_class_uid=uids.VERIFICATION, message_id=1).encode()
    for message_type in MESSAGE_TYPES.values():
        elements = script._elements(message_type, uids.VERIFICATION, 7)
        if message_type.is_response:
            elements["error_comment"] = "why"
        optional = {element.name for element in message_type.optional}
        elements = {
            name: value for name, value in elements.items() if name != "error_comment" or name in optional
        }
        yield message_type(**elements).encode()


def _fragments() -> Iterator[bytes]:
    for command, encoded in (
        (C_ECHO_RQ(affected_sop_class_uid="1.2", message_id=1), b""),
        (C_FIND_RQ(affected_sop_class_uid="1.2", message_id=2, priority=0), b"abcdef"),
    ):
        whole = command.encode()
        for length in (16, 200):
            parts = [whole[at : at + length] for at in range(0, len(whole), length)]
            controls = [1] * (len(parts) - 1) + [3]
            stream = b"".join(
                bytes((3, control, len(part))) + part for control, part in zip(controls, parts, strict=True)
            )
            yield stream + (b"\3\0\3abc\3\6\2de\3\2\1f" if encoded else b"")


def _texts() -> Iterator[bytes]:
    for terms in ("", "ISO_IR 100", "ISO_IR 192", "GB18030", "\\ISO 2022 IR 87\\ISO 2022 IR 159"):
        yield _text(terms, "Müller^Änne")
    yield _text("ISO 2022 IR 13\\ISO 2022 IR 87", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう")
    yield _text("\\ISO 2022 IR 149", "Hong^Gildong=洪^吉洞=홍^길동")
    yield _text("\\ISO 2022 IR 58", "Zhang^XiaoDong=张^小东")
    yield _text("ISO_IR 144\\ISO 2022 IR 126", "Люкceмбypг\nΔιονυσιος")  # noqa: RUF001
    yield _text("ISO 2022 IR 166\\ISO_8859-8", "ศ\\ש")


def _text(terms: str, text: str) -> bytes:
    named = character_sets.terms_of(terms.encode())
    fitting = character_sets.fitting([text], named)
    value = character_sets.encode(text, fitting, is_person_name=True)
    said = "\\".join(fitting) if fitting else terms
    return bytes((len(said) << 1 | 1,)) + said.encode() + value


def _file_heads() -> Iterator[bytes]:
    yield (
        FileMeta(_CT, "1.2.3", uids.EXPLICIT_VR_LITTLE_ENDIAN, "SCU", "PMOD").encode() + b"\x08\0\x05\0CS\0\0"
    )
    for name in ("no_meta_group_length.dcm", "meta_missing_tsyntax.dcm", "ExplVR_LitEndNoMeta.dcm"):
        yield _content(name)[:420]
    yield FileMeta(_CT, "1.2.3", uids.IMPLICIT_VR_LITTLE_ENDIAN).encode()[128 + 4 :]


def _keys() -> Iterator[bytes]:
    keywords = [attribute.keyword for attribute in matched()]
    for keyword, keys in _MATCHED.items():
        for key in keys:
            yield bytes((keywords.index(keyword), 0)) + key.encode()
    for keyword, doubled, key in _LONG:
        yield bytes((keywords.index(keyword), doubled)) + key.encode()


def _message(context_id: int, message_type: Any, encoded: bytes = b"", flags: int = 0) -> bytes:
    choice = script._MESSAGES.index(message_type)
    return bytes((script.MESSAGE, context_id, choice, context_id, flags, len(encoded))) + encoded


def _scripts() -> Iterator[bytes]:
    explicit = uids.EXPLICIT_VR_LITTLE_ENDIAN
    stored = data_set.encode(_elements({"SOPClassUID": _CT, **_UIDS}), explicit)
    study = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", "PatientName": "*"}
    keys = data_set.encode(_elements(study), explicit)
    chunk, release = bytes((script.CHUNK,)), bytes((script.RELEASE,))
    echo, store = _message(1, C_ECHO_RQ), _message(3, C_STORE_RQ, stored)
    find, cancel = _message(5, C_FIND_RQ, keys), _message(5, C_CANCEL_RQ)
    yield b"\1" + echo + chunk + store + chunk + find + chunk + release
    yield b"\x0f" + find + cancel + store + chunk + bytes((script.WAIT, 200)) + find + release + chunk
    yield b"\3" + bytes((script.PAUSE,)) + find + echo + find + chunk + bytes((script.PAUSE,)) + chunk
    for message_type in MESSAGE_TYPES.values():
        yield b"\1" + _message(1, message_type) + chunk + _message(5, message_type, keys, 1) + chunk
    yield b"\1" + _message(3, C_STORE_RQ, stored, 2) + bytes((script.FRAGMENT, 3, 0, 2)) + b"ab" + chunk
    yield b"\1" + bytes((script.FRAGMENT, 1, 1, 4)) + bytes(4) + chunk + bytes((script.WAIT, 255))
    small = associate_rq({1: script.CONTEXTS[1]}).encode()
    steps = b"".join(bytes((script.BYTES, len(part))) + part for part in (small[:100], small[100:]))
    yield b"\0" + steps + chunk + echo + chunk
    yield b"\0" + bytes((script.BYTES, 6)) + b"\x04\0\0\0\0\x20" + chunk


def seeds() -> dict[str, list[bytes]]:
    """The seeds of each target."""
    streams, objects = list(_streams()), list(_objects())
    return {
        "framer": [b"\0" + stream for stream in streams] + [b"\x0f" + streams[0]],
        "provider": [
            bytes((number % 2 or 14 * (number == 0),)) + stream for number, stream in enumerate(streams)
        ]
        + [b"\1" + streams[2], b"\0" + streams[2]],
        "command": list(_commands()),
        "reader": list(_fragments()),
        "header": objects,
        "data_set": objects,
        "text": list(_texts()),
        "file_head": list(_file_heads()),
        "identifier": list(_identifiers()),
        "matching": list(_keys()),
        "record": objects,
        "association": list(_scripts()),
    }


def main() -> None:
    for name, inputs in seeds().items():
        directory = CORPUS / name
        directory.mkdir(parents=True, exist_ok=True)
        for old in directory.glob("seed-*"):
            old.unlink()
        for number, content in enumerate(inputs):
            (directory / f"seed-{number:02}").write_bytes(content)


if __name__ == "__main__":
    main()
