"""Makes the endpoint ``dicomtls:`` known. All who use endpoint strings import this: nothing heavy here."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IStreamServerEndpoint, IStreamServerEndpointStringParser
from twisted.plugin import IPlugin
from zope.interface import implementer


@implementer(IPlugin, IStreamServerEndpointStringParser)
class _DicomTLS:
    """``dicomtls:PORT:cert=PATH:key=PATH:...``: TLS as PS3.15 profiles it."""

    prefix = "dicomtls"

    def parseStreamServer(  # noqa: N802
        self, reactor: Any, *args: Any, **kwargs: Any
    ) -> IStreamServerEndpoint:
        from dicomtw.tls_listening import parse

        return parse(reactor, *args, **kwargs)


dicomtls = _DicomTLS()
