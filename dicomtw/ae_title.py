"""AE titles (PS3.5 6.2, VR AE): 16 characters of the default repertoire, padded with spaces."""

from __future__ import annotations


def significant(title: str) -> str:
    """`title` as it is compared: leading and trailing spaces are not significant, case is."""
    return title.strip(" ")


def fault(title: str) -> str | None:
    """Why `title` is no AE title, in words for an operator, or None if it is one."""
    title = significant(title)
    if not title:
        return "is empty or all spaces"
    if len(title) > 16:
        return f"is {len(title)} characters long; 16 is the most"
    if any(not " " <= character <= "~" or character == "\\" for character in title):
        return "has a control character, a backslash or a character outside ASCII"
    return None
