"""PS3.15 A.5.1: an audit message as data, and its XML, by the schema given there.

Whatever a peer sends may stand in any text: what XML 1.0 has no place for, and what ends a line, becomes
U+FFFD, so that a message is always one line of well-formed XML.
"""

from __future__ import annotations

import ipaddress
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Final

import attrs

#: A text that is longer is cut, in characters: no attribute that is identified here is as long.
LONGEST_TEXT: Final = 1024

_NO_TEXT: Final = re.compile("[^ -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PLAIN: Final = re.compile("[ !#-%'-;=?-~]*")
_ESCAPES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})


class Outcome(Enum):
    """EventOutcomeIndicator."""

    SUCCESS = "0"
    #: Also where it may be tried again.
    MINOR_FAILURE = "4"
    SERIOUS_FAILURE = "8"
    MAJOR_FAILURE = "12"


class Action(Enum):
    """EventActionCode."""

    CREATE = "C"
    READ = "R"
    UPDATE = "U"
    DELETE = "D"
    EXECUTE = "E"


@attrs.frozen
class Code:
    """A coded value: csd-code, codeSystemName and originalText."""

    code: str
    system: str
    meaning: str


@attrs.frozen(kw_only=True)
class Participant:
    """ActiveParticipant (A.5.2.1-4): a process, or a person."""

    user_id: str
    alternative_user_id: str = ""
    user_name: str = ""
    is_requestor: bool = False
    roles: tuple[Code, ...] = ()
    #: An IP address or a host name; empty where there is none.
    access_point: str = ""


@attrs.frozen(kw_only=True)
class ParticipantObject:
    """ParticipantObjectIdentification: what the event is about."""

    object_id: str
    id_type: Code
    type_code: str
    role: str
    #: The schema wants one of these two.
    name: str = ""
    query: bytes | None = None
    #: Types and values of ParticipantObjectDetail.
    details: Mapping[str, bytes] = attrs.field(factory=dict)
    accession_numbers: tuple[str, ...] = ()
    #: SOPClass: numbers of instances by SOP class UID; by an empty one, of others.
    instances: Mapping[str, int] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class AuditMessage:
    """One event (A.5.1): what it was, who took part, who says so, and what it was about."""

    event: Code
    types: tuple[Code, ...] = ()
    action: Action
    #: With a time zone.
    time: datetime
    outcome: Outcome = Outcome.SUCCESS
    outcome_description: str = ""
    participants: tuple[Participant, ...]
    #: AuditSourceID.
    source: str
    objects: tuple[ParticipantObject, ...] = ()

    def xml(self) -> str:
        """The message in one line."""
        return f'<?xml version="1.0" encoding="UTF-8"?>{"".join(self._parts())}'

    def _parts(self) -> Iterator[str]:
        yield "<AuditMessage>"
        yield _opened(
            "EventIdentification",
            {
                "EventActionCode": self.action.value,
                "EventDateTime": self.time.isoformat(timespec="milliseconds"),
                "EventOutcomeIndicator": self.outcome.value,
            },
        )
        yield _coded("EventID", self.event)
        for code in self.types:
            yield _coded("EventTypeCode", code)
        if self.outcome_description:
            yield _with_text("EventOutcomeDescription", text(self.outcome_description))
        yield "</EventIdentification>"
        for participant in self.participants:
            yield from _participant(participant)
        yield _opened("AuditSourceIdentification", {"AuditSourceID": self.source})
        # 4: application server process.
        yield '<AuditSourceTypeCode csd-code="4"/></AuditSourceIdentification>'
        for one in self.objects:
            yield from _object(one)
        yield "</AuditMessage>"


def _participant(participant: Participant) -> Iterator[str]:
    attributes = {"UserID": participant.user_id}
    if participant.alternative_user_id:
        attributes["AlternativeUserID"] = participant.alternative_user_id
    if participant.user_name:
        attributes["UserName"] = participant.user_name
    attributes["UserIsRequestor"] = "true" if participant.is_requestor else "false"
    if participant.access_point:
        attributes["NetworkAccessPointID"] = participant.access_point
        attributes["NetworkAccessPointTypeCode"] = "2" if is_ip_address(participant.access_point) else "1"
    yield _opened("ActiveParticipant", attributes)
    for role in participant.roles:
        yield _coded("RoleIDCode", role)
    yield "</ActiveParticipant>"


def _object(one: ParticipantObject) -> Iterator[str]:
    yield _opened(
        "ParticipantObjectIdentification",
        {
            "ParticipantObjectID": one.object_id,
            "ParticipantObjectTypeCode": one.type_code,
            "ParticipantObjectTypeCodeRole": one.role,
        },
    )
    yield _coded("ParticipantObjectIDTypeCode", one.id_type)
    if one.query is not None:
        yield _with_text("ParticipantObjectQuery", _base64(one.query))
    else:
        yield _with_text("ParticipantObjectName", text(one.name))
    for kind, value in one.details.items():
        yield _empty("ParticipantObjectDetail", {"type": kind, "value": _base64(value)}, longest=None)
    if one.accession_numbers or one.instances:
        yield "<ParticipantObjectDescription>"
        for number in one.accession_numbers:
            yield _empty("Accession", {"Number": number})
        for uid, count in one.instances.items():
            named = {"UID": uid} if uid else {}
            yield _empty("SOPClass", {**named, "NumberOfInstances": str(count)})
        yield "</ParticipantObjectDescription>"
    yield "</ParticipantObjectIdentification>"


def text(value: str, longest: int | None = LONGEST_TEXT) -> str:
    """A value as it can stand in XML, in an attribute too."""
    value = value[:longest]
    if _PLAIN.fullmatch(value):  # as a rule
        return value
    return _NO_TEXT.sub("\ufffd", value).translate(_ESCAPES)


def is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _opened(name: str, attributes: Mapping[str, str], longest: int | None = LONGEST_TEXT) -> str:
    return f"<{name}{_attributes(attributes, longest)}>"


def _empty(name: str, attributes: Mapping[str, str], longest: int | None = LONGEST_TEXT) -> str:
    return f"<{name}{_attributes(attributes, longest)}/>"


def _attributes(attributes: Mapping[str, str], longest: int | None) -> str:
    return "".join(f' {name}="{text(value, longest)}"' for name, value in attributes.items())


@cache
def _coded(name: str, code: Code) -> str:
    """A coded value; there are as many of these as are written down in `events`."""
    values = {"csd-code": code.code, "codeSystemName": code.system, "originalText": code.meaning}
    return _empty(name, values)


def _with_text(name: str, escaped: str) -> str:
    return f"<{name}>{escaped}</{name}>"


def _base64(value: bytes) -> str:
    return b64encode(value).decode("ascii")
