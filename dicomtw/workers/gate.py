"""Which worker takes the next connection: all listen, and whoever has more than another leaves it to him."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.python.failure import Failure
from zope.interface import implementer

#: A connection is left to others for so long, in seconds: then it is taken, by whoever comes first. On a busy
#: machine it takes some ms until another process has its turn, and associations stay where they are for long.
LEFT: Final = 0.02


def is_shut(fd: int) -> bool:
    """Whether a socket no longer listens, for whoever has it."""
    looked = select.poll()
    looked.register(fd, 0)
    return bool(looked.poll(0))


@implementer(IListeningPort)
class Gate:
    """A listening port of Twisted's in a worker, as what its reactor reads; the port is others' as well.

    `is_busier` says whether another worker has fewer connections.
    """

    def __init__(self, port: Any, reactor: Any, is_busier: Callable[[], bool]) -> None:
        self._port = port
        self._reactor = reactor
        self._is_busier = is_busier
        self._open = True

    def logPrefix(self) -> str:  # noqa: N802 (Twisted's hooks keep Twisted's case)
        return str(self._port.logPrefix())

    def fileno(self) -> int:
        return int(self._port.fileno())

    def getHost(self) -> IAddress:  # noqa: N802
        host: IAddress = self._port.getHost()
        return host

    def startListening(self) -> None:  # noqa: N802
        self._reactor.addReader(self)

    def doRead(self) -> None:  # noqa: N802
        if self._is_busier():
            self._reactor.removeReader(self)
            self._reactor.callLater(LEFT, self._take)
        else:
            self._accept()

    def _take(self) -> None:
        if self._open:
            self._reactor.addReader(self)
            self._accept()  # if it is still there

    def _accept(self) -> None:
        if is_shut(self.fileno()):
            self.stopListening()  # by the process that we were forked from: we are to drain
            return
        self._port.numberAccepts = 1  # the next may be another's
        self._port.doRead()

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802
        self.stopListening()

    def stopListening(self) -> None:  # noqa: N802
        """Listen no longer. Others do, so what the port has in the file system stays."""
        if self._open:
            self._open = False
            self._reactor.removeReader(self)
            self._port.socket.close()
