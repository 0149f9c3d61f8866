"""``dicomtw echo``: is the peer there (PS3.4 Annex A)."""

from __future__ import annotations

import time
from argparse import Namespace

from dicomtw import uids
from dicomtw.command import terminal
from dicomtw.command.exits import Exit
from dicomtw.command.peer import Peer, peer_of
from dicomtw.command.running import run as run_under_reactor


def run(arguments: Namespace) -> int:
    """Ask as often as is wanted, and say how long it takes."""
    peer = peer_of(arguments)
    seconds: float = run_under_reactor(lambda: echo(peer, arguments.repeat))
    times = "" if arguments.repeat == 1 else f" {arguments.repeat} times"
    terminal.result(f"{peer} answers{times}, in {1000 * seconds / arguments.repeat:.1f} ms")
    return Exit.WELL


async def echo(peer: Peer, repeat: int) -> float:
    """Ask `repeat` times; how many seconds the answers took together."""
    async with peer.associate([uids.VERIFICATION]) as scu:
        began = time.monotonic()
        for _ in range(repeat):
            await scu.c_echo()
        return time.monotonic() - began
