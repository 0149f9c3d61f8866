"""Where an audit trail goes, in a word: ``file:PATH``, ``udp:HOST[:PORT]``, ``tls:HOST[:PORT]``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs

#: PS3.15 A.7 and A.6: RFC 5426 3.3, RFC 5425 4.1.
PORTS: Final = {"udp": 514, "tls": 6514}


@attrs.frozen
class Target:
    """A file, or a collector at `host` and `port`."""

    kind: str
    path: Path | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path is not None:
            return f"file:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}:{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Target:
        """Raises `ValueError`."""
        kind, colon, rest = text.partition(":")
        if kind == "file" and rest and "\0" not in rest:
            return cls("file", Path(rest))
        if kind not in PORTS or not rest:
            raise ValueError(text)
        if rest.startswith("["):
            host, bracket, port = rest[1:].partition("]")
            if not bracket or (port and not port.startswith(":")) or ":" not in host:
                raise ValueError(text)
            colon, port = port[:1], port[1:]
        else:
            host, colon, port = rest.partition(":")
        if colon and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise ValueError(text)
        if not host or not host.isascii() or any(one.isspace() or one in "/@" for one in host):
            raise ValueError(text)
        return cls(kind, None, host, int(port) if colon else PORTS[kind])
