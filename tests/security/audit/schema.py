"""The schema of PS3.15 A.5.1 as the standard's RELAX NG has it, and a check of a message against it.

And what the tables of A.5.3 ask for beyond it, for the messages that are sent here.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import datetime
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import attrs

Check = Callable[[str], bool]


def anything(_: str) -> bool:
    return True


def one_of(*values: str) -> Check:
    return lambda value: value in values


def is_time(value: str) -> bool:
    """xsd:dateTime with a time zone (A.5.2.5)."""
    pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"
    return re.fullmatch(pattern, value) is not None and datetime.fromisoformat(value) is not None


def is_base64(value: str) -> bool:
    try:
        base64.b64decode(value, validate=True)
    except binascii.Error:
        return False
    return True


BOOLEAN = one_of("true", "false", "1", "0")
INTEGER: Check = lambda value: re.fullmatch(r"[+-]?\d+", value) is not None  # noqa: E731


@attrs.frozen
class Pattern:
    """What an element may have: attributes (required, optional), children in order, and text."""

    required: dict[str, Check] = attrs.field(factory=dict)
    optional: dict[str, Check] = attrs.field(factory=dict)
    #: Name (several: one of them), and how many at least and at most.
    children: tuple[tuple[tuple[str, ...], int, float], ...] = ()
    text: Check | None = None


def child(*names: str, least: int = 1, most: float = 1) -> tuple[tuple[str, ...], int, float]:
    return names, least, most


MANY = float("inf")
CODED = Pattern(
    {"csd-code": anything, "codeSystemName": anything, "originalText": anything}, {"displayName": anything}
)
TEXT = Pattern(text=anything)

PATTERNS = {
    "AuditMessage": Pattern(
        children=(
            child("EventIdentification"),
            child("ActiveParticipant", most=MANY),
            child("AuditSourceIdentification"),
            child("ParticipantObjectIdentification", least=0, most=MANY),
        )
    ),
    "EventIdentification": Pattern(
        {"EventDateTime": is_time, "EventOutcomeIndicator": one_of("0", "4", "8", "12")},
        {"EventActionCode": one_of(*"CRUDE")},
        (
            child("EventID"),
            child("EventTypeCode", least=0, most=MANY),
            child("EventOutcomeDescription", least=0),
        ),
    ),
    "EventID": CODED,
    "EventTypeCode": CODED,
    "EventOutcomeDescription": TEXT,
    "ActiveParticipant": Pattern(
        {"UserID": anything, "UserIsRequestor": BOOLEAN},
        {
            "AlternativeUserID": anything,
            "UserName": anything,
            "NetworkAccessPointID": anything,
            "NetworkAccessPointTypeCode": one_of(*"12345"),
        },
        (child("RoleIDCode", least=0, most=MANY), child("MediaIdentifier", least=0)),
    ),
    "RoleIDCode": CODED,
    "AuditSourceIdentification": Pattern(
        {"AuditSourceID": anything},
        {"AuditEnterpriseSiteID": anything},
        (child("AuditSourceTypeCode", least=0, most=MANY),),
    ),
    "AuditSourceTypeCode": Pattern(
        {"csd-code": anything},
        {"codeSystemName": anything, "originalText": anything, "displayName": anything},
    ),
    "ParticipantObjectIdentification": Pattern(
        {"ParticipantObjectID": anything},
        {
            "ParticipantObjectTypeCode": one_of(*"1234"),
            "ParticipantObjectTypeCodeRole": one_of(*map(str, range(1, 27))),
            "ParticipantObjectDataLifeCycle": one_of(*map(str, range(1, 16))),
            "ParticipantObjectSensitivity": anything,
        },
        (
            child("ParticipantObjectIDTypeCode"),
            child("ParticipantObjectName", "ParticipantObjectQuery"),
            child("ParticipantObjectDetail", least=0, most=MANY),
            child("ParticipantObjectDescription", least=0, most=MANY),
        ),
    ),
    "ParticipantObjectIDTypeCode": CODED,
    "ParticipantObjectName": TEXT,
    "ParticipantObjectQuery": Pattern(text=is_base64),
    "ParticipantObjectDetail": Pattern({"type": anything, "value": is_base64}),
    "ParticipantObjectDescription": Pattern(
        children=(
            child("MPPS", least=0, most=MANY),
            child("Accession", least=0, most=MANY),
            child("SOPClass", least=0, most=MANY),
            child("ParticipantObjectContainsStudy", least=0),
            child("Encrypted", least=0),
            child("Anonymized", least=0),
        )
    ),
    "Accession": Pattern({"Number": anything}),
    "SOPClass": Pattern(
        {"NumberOfInstances": INTEGER}, {"UID": anything}, (child("Instance", least=0, most=MANY),)
    ),
    "Instance": Pattern({"UID": anything}),
}

#: A.5.3: action codes, event types, and for each of its participants in order the role it must have.
_ROLES = {"source": "110153", "destination": "110152", "application": "110150"}
EVENTS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "110100": ("E", ("110120", "110121"), ("application",)),
    "110102": ("E", (), ("source", "destination")),
    "110104": ("CRU", (), ("source", "destination")),
    "110112": ("E", (), ("source", "destination")),
    "110113": ("E", tuple(str(code) for code in range(110126, 110138)), ()),
    "110114": ("E", ("110122", "110123"), ()),
}
_PATIENT = ("1", "1", "2")
_STUDY = ("2", "3", "110180")
OBJECTS: dict[str, list[tuple[str, str, str]]] = {
    "110100": [],
    "110102": [_STUDY, _PATIENT],
    "110104": [_STUDY, _PATIENT],
    "110112": [("2", "3", "110181")],
    "110113": [("2", "13", "110182")],
    "110114": [],
}


def faults_of(xml: str | bytes) -> list[str]:
    """What is wrong with a message; raises `ElementTree.ParseError` if it is not well-formed."""
    text = xml.decode("utf-8") if isinstance(xml, bytes) else xml
    found = [] if text.splitlines() == [text] else ["it is not one line"]
    root = ElementTree.fromstring(text.encode("utf-8"))
    if root.tag != "AuditMessage":
        return [*found, f"its root is {root.tag}"]
    found += _faults(root)
    return found or _faults_of_event(root)


def _faults(element: Element) -> list[str]:
    pattern = PATTERNS.get(element.tag)
    if pattern is None:
        return [f"{element.tag} is not known"]
    found = [f"{element.tag}: {name} is missing" for name in pattern.required.keys() - element.keys()]
    checks = pattern.required | pattern.optional
    for name, value in element.items():
        if name not in checks or not checks[name](value):
            found.append(f"{element.tag}: {name}={value!r}")
    text = element.text or ""
    if (pattern.text is None and text.strip()) or (pattern.text is not None and not pattern.text(text)):
        found.append(f"{element.tag}: {text!r}")
    left = [one.tag for one in element]
    for names, least, most in pattern.children:
        count = 0
        while left and left[0] in names and count < most:
            left.pop(0)
            count += 1
        if count < least:
            found.append(f"{element.tag}: {names} are missing")
    if left:
        found.append(f"{element.tag}: {left} has no place there")
    for one in element:
        found += _faults(one)
        if (one.tail or "").strip():
            found.append(f"{one.tag}: {one.tail!r} after it")
    return found


def _faults_of_event(root: Element) -> list[str]:
    event = root[0]
    code = str(event.find("EventID").get("csd-code"))  # type: ignore[union-attr]
    actions, types, roles = EVENTS[code]
    found = []
    if str(event.get("EventActionCode")) not in actions:
        found.append(f"EventActionCode {event.get('EventActionCode')}")
    named = [one.get("csd-code") for one in event.findall("EventTypeCode")]
    if (len(named) == 1) != bool(types) or not set(named) <= set(types):
        found.append(f"EventTypeCodes {named}")
    participants = root.findall("ActiveParticipant")
    given = [one.get("csd-code") for each in participants for one in each.findall("RoleIDCode")]
    if sorted(given, key=str) != sorted(_ROLES[role] for role in roles):
        found.append(f"RoleIDCodes {given}")
    if sum(each.get("UserIsRequestor") == "true" for each in participants) > 1:
        found.append("more than one is the requestor")
    if any(
        (each.get("NetworkAccessPointID") is None) != (each.get("NetworkAccessPointTypeCode") is None)
        for each in participants
    ):
        found.append("half an access point")
    objects = [
        (
            str(one.get("ParticipantObjectTypeCode")),
            str(one.get("ParticipantObjectTypeCodeRole")),
            str(one.find("ParticipantObjectIDTypeCode").get("csd-code")),  # type: ignore[union-attr]
        )
        for one in root.findall("ParticipantObjectIdentification")
    ]
    if objects != OBJECTS[code]:
        found.append(f"participant objects {objects}")
    details = {one.get("type") for one in root.iter("ParticipantObjectDetail")}
    if code == "110112" and (details != {"TransferSyntax"} or root.find(".//ParticipantObjectQuery") is None):
        found.append("no query, or none in a transfer syntax")
    if code == "110113" and details != {"Alert Description"}:
        found.append("no Alert Description")
    if code == "110113" and any(each.get("UserIsRequestor") == "true" for each in participants):
        found.append("who is the matter of an alert is no requestor")
    if code == "110114" and participants[0].get("NetworkAccessPointID") is None:
        found.append("no access point")
    return found
