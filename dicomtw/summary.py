"""The one log line that each connection leaves: who, from where, what was agreed and done, how it ended."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger, LogLevel

from dicomtw import uids
from dicomtw.association import Association
from dicomtw.security.identity import user

_log = Logger(namespace="dicomtw.association")

#: How a connection ended on which the peer sent nothing, as the probes of load balancers do.
NOTHING_SAID = "closed by the peer before any association"

#: Names of one kind that the line tells; the JSON fields have them all.
_NAMES = 5

#: Characters of the line; what is cut is in the JSON fields.
LONGEST_LINE = 4000

#: Operations that the line has words for; others are counted by their names.
_TOLD = ("C-STORE", "C-ECHO")


def log_summary(association: Association, *, peer: str, tls: str, seconds: float, ended: str) -> None:
    """Log the line, with its fields for machines as the event's `association`. Not a word about patients."""
    refused = [
        f"{_name(context.abstract_syntax)} (result {context.result:d}: {context.why})"
        for context in association.refused
    ]
    accepted = sorted({_name(context.abstract_syntax) for context in association.accepted.values()})
    failures = {f"{code:04X}H": count for code, count in sorted(association.failures.items())}
    fields: dict[str, Any] = {
        "calling": association.calling_ae_title,
        "called": association.called_ae_title,
        "peer": peer,
        "tls": tls,
        "user": association.user,
        "accepted": accepted,
        "refused": refused,
        "objects": association.operations["C-STORE"],
        "echoes": association.operations["C-ECHO"],
        "operations": dict(association.operations),
        "failures": failures,
        "bytes": association.data_set_bytes,
        "objects_sent": association.objects_sent,
        "bytes_sent": association.bytes_sent,
        "seconds": round(seconds, 3),
        "odd_lengths": association.provider.odd_lengths,
        "lax_uids": association.lax_uids,
        "unfinished": association.unfinished,
        "ended": ended,
    }
    parts = [_who(fields)]
    if accepted or refused:
        agreed = f"{len(association.accepted)} contexts accepted{_abridged(accepted)}"
        parts.append(f"{agreed}, {len(refused)} refused{_abridged(refused)}")
        done = f"{fields['objects']} objects, {fields['bytes']} bytes, {fields['echoes']} echoes"
        done += "".join(
            f", {count} {name}" for name, count in sorted(association.operations.items()) if name not in _TOLD
        )
        if association.objects_sent:
            done += f", {association.objects_sent} objects sent, {association.bytes_sent} bytes"
        if failures:
            done += ", failed: " + ", ".join(f"{count} x {code}" for code, count in failures.items())
        if association.unfinished:
            done += f", {association.unfinished} dropped unfinished"
        if fields["odd_lengths"]:
            done += ", fragments of odd length"
        if fields["lax_uids"]:
            done += ", UIDs with leading zeros or empty components"
        parts.append(done)
    parts += [f"{seconds:.3f} s", ended]
    orderly = not failures and not association.unfinished and ended in ("released", NOTHING_SAID)
    level = LogLevel.info if orderly else LogLevel.warn
    _log.emit(level, "{summary}", summary=abridged("; ".join(parts)), association=fields)


def abridged(line: str) -> str:
    """As much of a line as the log takes: whatever a peer has put into it."""
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..."


def _name(uid: str) -> str:
    return uids.name_of(uid) if uids.is_valid_uid(uid) else repr(uid[:64])  # a peer's may hold anything


def _who(fields: dict[str, Any]) -> str:
    who = str(fields["peer"])
    if fields["calling"] or fields["called"]:
        who += f" {fields['calling']!r} to {fields['called']!r}"  # repr: a title may hold anything
    who += f" for {user(fields['user'])}" if fields["user"] else ""
    return who + (f" over {fields['tls']}" if fields["tls"] else "")


def _abridged(names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return f" ({', '.join(names[:_NAMES])}{more})"
