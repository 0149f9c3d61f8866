"""Host names of remotes: one look-up for all who wait, remembered for a minute, and nobody waits in vain."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import names
from dicomtw.names import Names, look_up

ONE, OTHER = frozenset({"192.0.2.1"}), frozenset({"192.0.2.2", "2001:db8::2"})
NOWHERE: frozenset[str] = frozenset()


class NamesTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        #: The look-ups that were begun, in their order, and those that are not over.
        self.begun: list[str] = []
        self.lookups: dict[str, Deferred[frozenset[str]]] = {}
        self.names = Names(self.clock, self.begin)

    def begin(self, name: str) -> Deferred[frozenset[str]]:
        self.begun.append(name)
        self.lookups[name] = Deferred()
        return self.lookups[name]

    def resolve(self, *asked: str) -> Deferred[dict[str, frozenset[str]]]:
        return self.names.resolve(frozenset(asked))

    def found(self, name: str, addresses: frozenset[str]) -> None:
        """A look-up is over."""
        self.lookups.pop(name).callback(addresses)


class NamesTests(NamesTestCase):
    def test_one(self) -> None:
        """A name is looked up, and its addresses are the answer."""
        resolved = self.resolve("ct.example")
        self.assertNoResult(resolved)
        self.found("ct.example", OTHER)
        self.assertEqual(self.successResultOf(resolved), {"ct.example": OTHER})

    def test_several(self) -> None:
        """Each of several names has its own addresses, and no other's, when all are known."""
        resolved = self.resolve("ct.example", "mr.example", "gone.example")
        self.assertEqual(sorted(self.begun), ["ct.example", "gone.example", "mr.example"])
        self.found("mr.example", OTHER)
        self.found("gone.example", NOWHERE)
        self.assertNoResult(resolved)
        self.found("ct.example", ONE)
        self.assertEqual(
            self.successResultOf(resolved), {"ct.example": ONE, "mr.example": OTHER, "gone.example": NOWHERE}
        )

    def test_none(self) -> None:
        """No name has no address, and nothing is looked up."""
        self.assertEqual(self.successResultOf(self.resolve()), {})
        self.assertEqual(self.begun, [])

    def test_shared(self) -> None:
        """All who ask for a name while it is looked up share that look-up."""
        waiting = [
            self.resolve("ct.example"),
            self.resolve("ct.example"),
            self.resolve("ct.example", "mr.example"),
        ]
        self.assertEqual(self.begun, ["ct.example", "mr.example"])
        self.found("ct.example", ONE)
        self.assertEqual([self.successResultOf(one) for one in waiting[:2]], [{"ct.example": ONE}] * 2)
        self.assertNoResult(waiting[2])
        self.found("mr.example", OTHER)
        self.assertEqual(self.successResultOf(waiting[2]), {"ct.example": ONE, "mr.example": OTHER})

    def test_remembered(self) -> None:
        """Addresses are good for sixty seconds from when they were found, none at all, too."""
        for addresses in (ONE, NOWHERE):
            self.setUp()
            first = self.resolve("ct.example")
            self.clock.advance(100)
            self.found("ct.example", addresses)
            self.successResultOf(first)
            for _ in range(2):
                self.clock.advance(29.9)
                self.assertEqual(self.successResultOf(self.resolve("ct.example")), {"ct.example": addresses})
            self.assertEqual(len(self.begun), 1)
            self.clock.advance(0.3)
            again = self.resolve("ct.example")
            self.assertNoResult(again)
            self.assertEqual(len(self.begun), 2)
            self.found("ct.example", OTHER)
            self.assertEqual(self.successResultOf(again), {"ct.example": OTHER})

    def test_answered_at_once(self) -> None:
        """A look-up that is over at once is as good."""

        def at_once(name: str) -> Deferred[frozenset[str]]:
            looked_up = self.begin(name)
            looked_up.callback(ONE)
            return looked_up

        self.names = Names(self.clock, at_once)
        both = self.successResultOf(self.resolve("ct.example", "mr.example"))
        self.assertEqual(both, {"ct.example": ONE, "mr.example": ONE})
        self.assertEqual(self.successResultOf(self.resolve("mr.example")), {"mr.example": ONE})
        self.assertEqual(self.begun, ["ct.example", "mr.example"])


class ImpatientTests(NamesTestCase):
    """Whoever waits no longer takes nothing from others."""

    def test_cancelled(self) -> None:
        """One of three who wait for a name gives up; the others get it from the same look-up."""
        for which in range(3):
            self.setUp()
            waiting = [self.resolve("ct.example") for _ in range(3)]
            waiting[which].cancel()
            self.failureResultOf(waiting[which])
            others = [one for one in waiting if one is not waiting[which]]
            for one in others:
                self.assertNoResult(one)
            self.found("ct.example", ONE)
            self.assertEqual([self.successResultOf(one) for one in others], [{"ct.example": ONE}] * 2)
            self.assertEqual(self.begun, ["ct.example"])

    def test_timeout(self) -> None:
        """A time limit of one who waits fails as such, and leaves the look-up and its memory as they are."""
        first = self.resolve("ct.example", "mr.example").addTimeout(30, self.clock)
        self.clock.advance(29)
        second = self.resolve("ct.example").addTimeout(30, self.clock)
        self.clock.advance(1)
        self.failureResultOf(first)
        self.assertNoResult(second)
        self.found("ct.example", ONE)
        self.assertEqual(self.successResultOf(second), {"ct.example": ONE})
        self.found("mr.example", OTHER)
        both = self.successResultOf(self.resolve("ct.example", "mr.example"))
        self.assertEqual(both, {"ct.example": ONE, "mr.example": OTHER})
        self.assertEqual(self.begun, ["ct.example", "mr.example"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_all_gave_up(self) -> None:
        """A look-up for which nobody waits any more is not begun again; what it finds is remembered."""
        for _ in range(3):
            given_up = self.resolve("ct.example")
            given_up.cancel()
            self.failureResultOf(given_up)
        late = self.resolve("ct.example")
        self.assertEqual(self.begun, ["ct.example"])
        self.found("ct.example", ONE)
        self.assertEqual(self.successResultOf(late), {"ct.example": ONE})
        self.assertEqual(self.successResultOf(self.resolve("ct.example")), {"ct.example": ONE})

    def test_cancelled_among_several(self) -> None:
        """Who gives up while one of several names is known leaves nothing that fails later."""
        given_up = self.resolve("ct.example", "mr.example")
        self.found("ct.example", ONE)
        given_up.cancel()
        self.failureResultOf(given_up)
        self.found("mr.example", OTHER)
        self.assertEqual(self.flushLoggedErrors(CancelledError), [])
        self.assertEqual(self.successResultOf(self.resolve("mr.example")), {"mr.example": OTHER})

    def test_look_up_that_fails(self) -> None:
        """A look-up that fails, which it should not, leaves nobody waiting, and the next begins anew."""
        resolved = self.resolve("ct.example")
        self.lookups.pop("ct.example").errback(ZeroDivisionError("bug"))
        self.assertTrue(resolved.called)
        resolved.addErrback(lambda _: None)
        self.flushLoggedErrors(ZeroDivisionError)
        self.clock.advance(61)
        again = self.resolve("ct.example")
        self.assertEqual(self.begun, ["ct.example", "ct.example"])
        self.found("ct.example", ONE)
        self.assertEqual(self.successResultOf(again), {"ct.example": ONE})


class LookUpTests(SynchronousTestCase):
    """What blocks, and therefore is called in a thread."""

    def answer(self, answer: Any) -> list[str]:
        """Have the resolver answer that, or raise it; the names that it is asked for."""
        asked: list[str] = []

        def getaddrinfo(host: str, port: None) -> Any:
            asked.append(host)
            if isinstance(answer, Exception):
                raise answer
            return answer

        self.patch(names.socket, "getaddrinfo", getaddrinfo)
        return asked

    def test_addresses(self) -> None:
        """All addresses of a name, of both families, each once."""
        tcp, udp = socket.SOCK_STREAM, socket.SOCK_DGRAM
        asked = self.answer(
            [
                (socket.AF_INET, tcp, 6, "", ("192.0.2.2", 0)),
                (socket.AF_INET, udp, 17, "", ("192.0.2.2", 0)),
                (socket.AF_INET6, tcp, 6, "", ("2001:db8::2", 0, 0, 0)),
            ]
        )
        self.assertEqual(look_up("ct.example"), OTHER)
        self.assertEqual(asked, ["ct.example"])

    def test_no_addresses(self) -> None:
        """A name that is not known, or a resolver that is not there, is nobody's address."""
        for error in (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
            OSError(24, "Too many open files"),
        ):
            self.answer(error)
            self.assertEqual(look_up("ct.example"), NOWHERE)

    def test_impossible_names(self) -> None:
        """What cannot be a name, which the resolver says in its own way, is nobody's address either."""
        for name in ("ct..example", "a" * 64 + ".example"):
            self.assertEqual(look_up(name), NOWHERE, name)
