"""What every server does, unless it is told to do more."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dicomtw.archive import Archive
from dicomtw.config import Server
from dicomtw.destinations import RemoteDestinations
from dicomtw.services import ServiceClass
from dicomtw.services.bounds import Bounds
from dicomtw.services.query import Query
from dicomtw.services.retrieve import Get, Move
from dicomtw.services.storage import Storage
from dicomtw.services.verification import Verification
from dicomtw.storage.bounded import BoundedStore, FreeSpace

#: Makes the service classes of a server, from where it keeps objects and whom it can send them to.
Services = Callable[[Server, Archive, RemoteDestinations], Iterable[ServiceClass]]


def standard_services(
    server: Server, archive: Archive, destinations: RemoteDestinations
) -> list[ServiceClass]:
    """Verification, storage, query and retrieval."""
    index, root = archive.index, archive.root
    minimum = None if server.min_free_space is None else server.min_free_space << 20
    space = FreeSpace(root, minimum, lambda line: archive.log.warn("{line}", line=line))
    store = BoundedStore(archive.store, server.max_object_size << 20, space)
    bounds = Bounds(
        query_timeout=server.query_timeout,
        max_matches=server.max_matches,
        max_sub_operations=server.max_sub_operations,
        max_moves=server.max_moves,
    )
    return [
        Verification(),
        Storage(store, accept_unknown=server.accept_unknown_sop_classes, indexing=archive),
        Query(index, archive, server.aet, bounds),
        Get(index, archive, root, bounds),
        Move(index, archive, root, destinations, bounds),
    ]
