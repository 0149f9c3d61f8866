"""PS3.15 A.5.3: the messages for what happens in a DICOM server."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

import attrs

from dicomtw.security.audit.message import (
    LONGEST_TEXT,
    Action,
    AuditMessage,
    Code,
    Outcome,
    Participant,
    ParticipantObject,
)


def _dcm(code: str, meaning: str) -> Code:
    return Code(code, "DCM", meaning)


# PS3.16 CID 400, 401, 402, 403, 404.
APPLICATION_ACTIVITY: Final = _dcm("110100", "Application Activity")
BEGIN_TRANSFERRING: Final = _dcm("110102", "Begin Transferring DICOM Instances")
INSTANCES_TRANSFERRED: Final = _dcm("110104", "DICOM Instances Transferred")
QUERY: Final = _dcm("110112", "Query")
SECURITY_ALERT: Final = _dcm("110113", "Security Alert")
USER_AUTHENTICATION: Final = _dcm("110114", "User Authentication")

APPLICATION_START: Final = _dcm("110120", "Application Start")
APPLICATION_STOP: Final = _dcm("110121", "Application Stop")
LOGIN: Final = _dcm("110122", "Login")
NODE_AUTHENTICATION: Final = _dcm("110126", "Node Authentication")
USE_OF_RESTRICTED_FUNCTION: Final = _dcm("110132", "Use of Restricted Function")
AUDIT_RECORDING_STOPPED: Final = _dcm("110133", "Audit Recording Stopped")
AUDIT_RECORDING_STARTED: Final = _dcm("110134", "Audit Recording Started")

APPLICATION: Final = _dcm("110150", "Application")
DESTINATION_ROLE: Final = _dcm("110152", "Destination Role ID")
SOURCE_ROLE: Final = _dcm("110153", "Source Role ID")

STUDY_INSTANCE_UID: Final = _dcm("110180", "Study Instance UID")
SOP_CLASS_UID: Final = _dcm("110181", "SOP Class UID")
NODE_ID: Final = _dcm("110182", "Node ID")
PATIENT_NUMBER: Final = Code("2", "RFC-3881", "Patient Number")

#: SOP classes of a study that a message tells one by one, lest it become longer than anybody takes.
MAXIMUM_SOP_CLASSES: Final = 64

# ParticipantObjectTypeCode
_PERSON, _SYSTEM = "1", "2"
# ParticipantObjectTypeCodeRole
_PATIENT, _REPORT, _SECURITY_RESOURCE = "1", "3", "13"


def _now() -> datetime:
    return datetime.now(UTC)


@attrs.frozen(kw_only=True)
class Party:
    """A peer, as far as it is known."""

    ae_title: str = ""
    #: IP address or host name.
    address: str = ""
    #: The subject of its certificate.
    certificate: str = ""
    #: Whose name it comes in: user identity negotiation.
    user: str = ""


@attrs.frozen(kw_only=True)
class Study:
    """A study, and whose it is."""

    study_instance_uid: str
    patient_id: str = ""
    patient_name: str = ""
    accession_number: str = ""


@attrs.frozen(kw_only=True)
class Events:
    """Makes the messages of one application entity."""

    ae_title: str
    #: As the log of the operating system has it; empty: this process's, when a message is made.
    process_id: str = ""
    #: Host name of this machine.
    host: str = ""
    now: Callable[[], datetime] = _now

    # -- A.5.3.1

    def application(self, *, starts: bool) -> AuditMessage:
        """Application Activity."""
        return AuditMessage(
            event=APPLICATION_ACTIVITY,
            types=(APPLICATION_START if starts else APPLICATION_STOP,),
            action=Action.EXECUTE,
            time=self.now(),
            participants=(self._us(APPLICATION),),
            source=self.ae_title,
        )

    # -- A.5.3.3, A.5.3.7

    def begin_transferring(
        self, requestor: Party, destination: Party | None, study: Study, instances: Mapping[str, int]
    ) -> AuditMessage:
        """Begin Transferring DICOM Instances: `requestor` asks, `destination` or else he gets them."""
        return AuditMessage(
            event=BEGIN_TRANSFERRING,
            action=Action.EXECUTE,
            time=self.now(),
            participants=self._sending(requestor, destination),
            source=self.ae_title,
            objects=_of_study(study, instances),
        )

    def sent(
        self,
        requestor: Party,
        destination: Party | None,
        study: Study,
        instances: Mapping[str, int],
        *,
        failed: bool = False,
    ) -> AuditMessage:
        """DICOM Instances Transferred, by us to `destination`, or else to `requestor`."""
        return AuditMessage(
            event=INSTANCES_TRANSFERRED,
            # "If the Audit Source is [...] not the receiver [...] then use 'R'."
            action=Action.READ,
            time=self.now(),
            outcome=Outcome.MINOR_FAILURE if failed else Outcome.SUCCESS,
            outcome_description="not transferred" if failed else "",
            participants=self._sending(requestor, destination),
            source=self.ae_title,
            objects=_of_study(study, instances),
        )

    def received(
        self, requestor: Party, study: Study, instances: Mapping[str, int], *, held_before: bool = False
    ) -> AuditMessage:
        """DICOM Instances Transferred, by `requestor` to us; `held_before`: we had them and keep those."""
        return AuditMessage(
            event=INSTANCES_TRANSFERRED,
            action=Action.READ if held_before else Action.CREATE,
            time=self.now(),
            participants=(
                *_participants(requestor, SOURCE_ROLE, is_requestor=True),
                self._us(DESTINATION_ROLE),
            ),
            source=self.ae_title,
            objects=_of_study(study, instances),
        )

    def _sending(self, requestor: Party, destination: Party | None) -> tuple[Participant, ...]:
        us = self._us(SOURCE_ROLE)
        if destination is None:
            return (us, *_participants(requestor, DESTINATION_ROLE, is_requestor=True))
        return (
            us,
            *_participants(destination, DESTINATION_ROLE),
            *_participants(requestor, is_requestor=True),
        )

    # -- A.5.3.10

    def query(
        self, requestor: Party, sop_class_uid: str, transfer_syntax_uid: str, identifier: bytes
    ) -> AuditMessage:
        """Query: the identifier of a C-FIND request, as it came."""
        return AuditMessage(
            event=QUERY,
            action=Action.EXECUTE,
            time=self.now(),
            participants=(
                *_participants(requestor, SOURCE_ROLE, is_requestor=True),
                self._us(DESTINATION_ROLE),
            ),
            source=self.ae_title,
            objects=(
                ParticipantObject(
                    object_id=sop_class_uid,
                    id_type=SOP_CLASS_UID,
                    type_code=_SYSTEM,
                    role=_REPORT,
                    query=identifier,
                    details={"TransferSyntax": transfer_syntax_uid.encode("utf-8", "replace")},
                ),
            ),
        )

    # -- A.5.3.11

    def alert(
        self, kind: Code, why: str, party: Party | None = None, outcome: Outcome = Outcome.MINOR_FAILURE
    ) -> AuditMessage:
        """Security Alert about `party`, or about ourselves."""
        subject = self.host if party is None else party.address or self.host
        why = why[:LONGEST_TEXT]  # for details as for texts
        return AuditMessage(
            event=SECURITY_ALERT,
            types=(kind,),
            action=Action.EXECUTE,
            time=self.now(),
            outcome=outcome,
            outcome_description=why,
            participants=(self._us(), *(() if party is None else _participants(party))),
            source=self.ae_title,
            objects=(
                ParticipantObject(
                    object_id=subject,
                    id_type=NODE_ID,
                    type_code=_SYSTEM,
                    role=_SECURITY_RESOURCE,
                    name=self.ae_title if party is None else party.ae_title,
                    details={"Alert Description": why.encode("utf-8", "replace")},
                ),
            ),
        )

    # -- A.5.3.12

    def login(self, party: Party, why_not: str = "") -> AuditMessage:
        """User Authentication of `party.user`, which has succeeded or failed."""
        return AuditMessage(
            event=USER_AUTHENTICATION,
            types=(LOGIN,),
            action=Action.EXECUTE,
            time=self.now(),
            outcome=Outcome.MINOR_FAILURE if why_not else Outcome.SUCCESS,
            outcome_description=why_not,
            participants=(
                Participant(
                    user_id=party.user,
                    alternative_user_id=_titles(party.ae_title),
                    user_name=party.certificate,
                    is_requestor=True,
                    access_point=party.address or self.host,
                ),
                self._us(),
            ),
            source=self.ae_title,
        )

    def _us(self, *roles: Code) -> Participant:
        return Participant(
            user_id=self.process_id or str(os.getpid()),
            alternative_user_id=_titles(self.ae_title),
            user_name="dicomtw",
            roles=roles,
            access_point=self.host,
        )


def _participants(party: Party, *roles: Code, is_requestor: bool = False) -> tuple[Participant, ...]:
    """A peer's process, and the person it acts for: of the two one alone is the requestor."""
    process = Participant(
        user_id=party.ae_title or party.address or "unknown",
        alternative_user_id=_titles(party.ae_title),
        user_name=party.certificate,
        is_requestor=is_requestor and not party.user,
        roles=roles,
        access_point=party.address,
    )
    if not party.user:
        return (process,)
    person = Participant(user_id=party.user, is_requestor=is_requestor, access_point=party.address)
    return process, person


def _titles(ae_title: str) -> str:
    return f"AETITLES={ae_title}" if ae_title else ""


def _of_study(study: Study, instances: Mapping[str, int]) -> tuple[ParticipantObject, ...]:
    return (
        ParticipantObject(
            object_id=study.study_instance_uid,
            id_type=STUDY_INSTANCE_UID,
            type_code=_SYSTEM,
            role=_REPORT,
            accession_numbers=(study.accession_number,) if study.accession_number else (),
            instances=_abridged(instances),
        ),
        ParticipantObject(
            object_id=study.patient_id,
            id_type=PATIENT_NUMBER,
            type_code=_PERSON,
            role=_PATIENT,
            name=study.patient_name,
        ),
    )


def _abridged(instances: Mapping[str, int]) -> Mapping[str, int]:
    """The SOP classes that most instances are of, and the others as one without a UID."""
    if len(instances) <= MAXIMUM_SOP_CLASSES:
        return instances
    most = dict(Counter(instances).most_common(MAXIMUM_SOP_CLASSES))
    return {**most, "": sum(instances.values()) - sum(most.values())}
