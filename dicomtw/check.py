"""``--check``: says what a configuration means and what is wrong with it on this machine; changes nothing."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from twisted.internet.testing import MemoryReactor

from dicomtw.config import Configuration, Server
from dicomtw.destinations import fault_of, limits_of, tls_of
from dicomtw.limits import descriptors_for_connections, fit
from dicomtw.named_checkers import AuthFault, authentication_of
from dicomtw.proxy import server_endpoint
from dicomtw.security.tls import TLSError
from dicomtw.tls_listening import endpoint as tls_endpoint
from dicomtw.tls_listening import said_of
from dicomtw.words import describe, no_endpoint, warnings_of

#: Descriptors of a server that nobody is connected to.
_AT_REST = 20


def check(configuration: Configuration) -> list[str]:
    """Print what `configuration` means; the faults, one line each."""
    faults = []
    if configuration.workers > 1:
        print(f"{configuration.workers} processes share what follows")
    for number, server in enumerate(configuration.servers, 1):
        print(f"server {number}:")
        for line in describe(server, configuration):
            print(f"  {line}")
        for line in warnings_of(server, configuration):
            print(f"  warning: {line}")
        for line in _few_descriptors(server, len(configuration.servers)):
            print(f"  warning: {line}")
        faults += _faults(server)
    faults += [fault for remote in configuration.remotes if (fault := fault_of(remote, tls_of(remote)))]
    return faults


def _few_descriptors(server: Server, servers: int) -> list[str]:
    """What there would be too few file descriptors for, if the server ran where we do."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return []
    share = descriptors_for_connections(most, _AT_REST, servers)
    return fit(limits_of(server), server.aet, most, share)[1]


def _faults(server: Server) -> list[str]:
    faults = []
    for text in server.listen:
        try:
            endpoint = server_endpoint(MemoryReactor(), text)
        except Exception as error:  # an endpoint's parser is a plugin and may raise anything
            faults.append(no_endpoint(text, error))
        else:
            for line in said_of(endpoint):
                print(f"  {line}")
    if server.audit is not None:
        from dicomtw.auditing import fault_in  # for few need it

        faults += filter(None, [fault_in(server)])
    try:
        authentication_of(server.demand, server.auth)
    except AuthFault as fault:
        faults.append(str(fault))
    if server.tls:
        try:
            for line in said_of(tls_endpoint(MemoryReactor(), server.tls_files, server.port or 0)):
                print(f"  {line}")
        except TLSError as error:
            faults.append(str(error))
    place = Path(os.path.abspath(server.store))
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        faults.append(f"the store {server.store} cannot be made: {place} is not a directory")
    elif not os.access(place, os.W_OK | os.X_OK):
        faults.append(f"the store {server.store} cannot be written: no permission in {place}")
    return faults
