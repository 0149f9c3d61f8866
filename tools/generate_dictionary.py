"""Write ``dicomtw/encoding/dictionary.txt`` from pydicom's data dictionary (PS3.6 Section 6).

Run it after pydicom has moved to a newer edition of the standard; ``tests/encoding/test_dictionary.py``
tells when that is due.
"""

from __future__ import annotations

from pydicom._dicom_dict import DicomDictionary

from dicomtw.encoding.dictionary import FILE


def lines() -> list[str]:
    """One line "GGGGEEEE VR VM Keyword" for each element that has one tag and a keyword, retired ones too.

    Of several VRs ("US or SS") the first; items and delimiters, which have no VR, are left out.
    """
    return [
        f"{tag:08X} {vr.partition(' ')[0]} {vm.replace(' ', '')} {keyword}"
        for tag, (vr, vm, _name, _retired, keyword) in sorted(DicomDictionary.items())
        if vr != "NONE" and keyword
    ]


if __name__ == "__main__":
    FILE.write_text("".join(f"{line}\n" for line in lines()), "ascii")
