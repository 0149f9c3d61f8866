"""Print the two tables of ``dicomtw/uids.py`` from pydicom's UID dictionary (PS3.6 Annex A).

Run it after pydicom has moved to a newer edition of the standard, and paste the
output over the tables; ``tests/test_uids.py`` tells when that is due.
"""

from __future__ import annotations

from pydicom._uid_dict import UID_dictionary

from dicomtw.uids import NOT_STORED_BY_C_STORE

#: In the standard since pydicom's dictionary was made (PS3.5 A.4.12, A.4.13).
NEWER_TRANSFER_SYNTAXES = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}


def storage_sop_classes() -> dict[str, str]:
    """SOP classes of the Storage and Non-Patient Object Storage Service Classes (PS3.4 B.5, GG.3)."""
    return {
        uid: name
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and "Storage" in name and uid not in NOT_STORED_BY_C_STORE
    }


def transfer_syntaxes() -> dict[str, str]:
    """All transfer syntaxes, retired ones too (PS3.5 Annex A)."""
    known = {uid: name for uid, (name, kind, *_) in UID_dictionary.items() if kind == "Transfer Syntax"}
    return known | NEWER_TRANSFER_SYNTAXES


def _print_table(name: str, table: dict[str, str]) -> None:
    print(f"{name}: Final[Mapping[str, str]] = {{")
    for uid, title in table.items():
        print(f'    "{uid}": "{title}",')
    print("}")


if __name__ == "__main__":
    _print_table("STORAGE_SOP_CLASSES", storage_sop_classes())
    print()
    _print_table("TRANSFER_SYNTAXES", transfer_syntaxes())
