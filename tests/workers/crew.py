"""Workers of one server in one process, as far as they know of each other."""

from __future__ import annotations

from dicomtw.acceptor import ApplicationEntity
from dicomtw.config import Configuration, Server
from dicomtw.destinations import limits_of
from dicomtw.feed import Disk
from dicomtw.security.access import AccessPolicy
from dicomtw.security.remote import Remote
from dicomtw.services import ServiceRegistry
from dicomtw.services.verification import Verification
from dicomtw.testing import MemoryServer, at_once
from dicomtw.workers.factory import SharedFactory
from dicomtw.workers.standing import Common


def common(count: int = 2, server: Server | None = None, remotes: tuple[Remote, ...] = ()) -> list[Common]:
    """What each of so many workers sees of what they have in common."""
    configuration = Configuration(servers=(server or Server(port=4030),), remotes=remotes, workers=count)
    first = Common(configuration)
    return [Common(configuration, first.board.seen_by(number)) for number in range(1, count + 1)]


def servers(server: Server, remotes: tuple[Remote, ...] = (), count: int = 2) -> list[MemoryServer]:
    """A server, PMOD, as each of so many workers has it, all with one clock."""
    found: list[MemoryServer] = []
    for each in common(count, server, remotes):
        entity = ApplicationEntity(
            access=AccessPolicy(
                ae_title="PMOD",
                remotes=remotes,
                accept_any_ae=True,
                associations_per_minute_per_host=server.associations_per_minute_per_host,
                failed_associations_per_minute_per_host=server.failed_associations_per_minute_per_host,
            ),
            registry=ServiceRegistry([Verification()]),
            disk=Disk(at_once),
        )
        made = MemoryServer(entity)
        made.clock = found[0].clock if found else made.clock
        resolve = made.factory.resolve
        made.factory = made.listening = SharedFactory(
            entity, limits_of(server), made.clock, resolve, each, "0"
        )
        each.begin()
        found.append(made)
    return found
