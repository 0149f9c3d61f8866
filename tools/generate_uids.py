"""Print the two tables of ``dicomtw/uids.py`` from pydicom's UID dictionary (PS3.6 Annex A).

Run it after pydicom has moved to a newer edition of the standard, and paste the
output over the tables; ``tests/test_uids.py`` tells when that is due.
"""

from __future__ import annotations

from dicomtw.uids import NOT_STORED_BY_C_STORE
from pydicom._uid_dict import UID_dictionary


def storage_sop_classes() -> dict[str, str]:
    """SOP classes of the Storage and Non-Patient Object Storage Service Classes (PS3.4 B.5, GG.3)."""
    return {
        uid: name
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and "Storage" in name and uid not in NOT_STORED_BY_C_STORE
    }


def transfer_syntaxes() -> dict[str, str]:
    """All transfer syntaxes, retired ones too (PS3.5 Annex A)."""
    return {uid: name for uid, (name, kind, *_) in UID_dictionary.items() if kind == "Transfer Syntax"}


def _print_table(name: str, table: dict[str, str]) -> None:
    print(f"{name}: Final[Mapping[str, str]] = {{")
    for uid, title in table.items():
        print(f'    "{uid}": "{title}",')
    print("}")


if __name__ == "__main__":
    _print_table("STORAGE_SOP_CLASSES", storage_sop_classes())
    print()
    _print_table("TRANSFER_SYNTAXES", transfer_syntaxes())
