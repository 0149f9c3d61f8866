"""What a store has of a study, in numbers: for those who say what was sent."""

from __future__ import annotations

import attrs


@attrs.frozen
class Content:
    """Instances of one SOP class in one study, and whose they are: nothing for a log."""

    #: The name of the study's directory in the store.
    directory: str
    study_instance_uid: str
    accession_number: str
    patient_id: str
    patient_name: str
    sop_class_uid: str
    count: int
