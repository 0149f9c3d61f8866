"""The DIMSE and idle timeouts of one association: whoever is waited for makes progress, or it ends."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from dicomtw.association import PROGRESS, Association
from dicomtw.limits import Limits
from dicomtw.ul.machine import State

#: States in which the next PDU is the peer's to send, besides Sta5 and Sta6.
_PEER_IS_DUE = (State.Sta7, State.Sta9, State.Sta10, State.Sta11, State.Sta12)


class Watch:
    """Aborts an association whose peer is due and does nothing, or too little.

    One timer for both timeouts, set again when it runs out: nothing is to be done per PDU but note the time.
    """

    def __init__(self, association: Association, limits: Limits, clock: IReactorTime) -> None:
        self._association = association
        self._limits = limits
        self._clock = clock
        self._timer: IDelayedCall | None = None
        self._last_activity = self._began = clock.seconds()
        #: Whether something was half received when bytes came last, and the progress up to then.
        self._was_mid_message = False
        self._progress = 0
        #: What is waited for, and since when.
        self._turn: object = None
        self._turn_since = 0.0
        self._unread_since: float | None = None
        #: Nothing is read of the peer for now: it is our turn.
        self.held = False

    def begin(self) -> None:
        """Watch from now on."""
        self.active()
        if self._timer is None:
            self._check()

    def connected(self) -> None:
        """The connection that we have asked for is there; the time before that does not count."""
        self._began = self._clock.seconds()
        self.begin()

    def end(self) -> None:
        """Watch no longer."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    @property
    def seconds(self) -> float:
        """How long it is that the connection is there."""
        return self._clock.seconds() - self._began

    def active(self) -> None:
        """Something has happened that the peer is given its time anew for."""
        self._last_activity = self._clock.seconds()

    def received(self) -> None:
        """Bytes of the peer have been taken in.

        A message once begun is not kept alive by a byte now and then, nor by PDUs with nothing in them.
        """
        association = self._association
        mid_message, progress = association.mid_message, association.progress
        if not (mid_message and self._was_mid_message) or progress - self._progress >= PROGRESS:
            self._last_activity = self._clock.seconds()
            self._progress = progress
        self._was_mid_message = mid_message

    @property
    def unread(self) -> bool:
        """Whether the peer does not take what we send."""
        return self._unread_since is not None

    def taken(self, taken: bool) -> None:
        """The peer takes what we send, or (False) too much of it waits; that may be said again and again."""
        if taken:
            self._unread_since = None
            self.active()
        elif self._unread_since is None:
            self._unread_since = self._clock.seconds()

    def _check(self) -> None:
        association, limits = self._association, self._limits
        state = association.provider.state
        since = self._last_activity
        if state in (State.Sta1, State.Sta13):
            return
        if state == State.Sta5:
            since = self._began  # however slowly it comes, or TLS comes about before
            limit, why = limits.artim_timeout, "no answer to the A-ASSOCIATE-RQ within the ARTIM time"
        elif self._unread_since is not None:
            since = self._unread_since  # whatever it sends meanwhile
            limit, why = limits.dimse_timeout, "the peer does not read our answers"
        elif self.held or association.sends:
            limit, why = limits.dimse_timeout, ""  # it is our turn, however long that takes
        elif association.waits_for_response:
            since = self._since(association.turn)  # whatever it asks of us meanwhile
            limit, why = limits.dimse_timeout, "no response within the DIMSE timeout"
        elif association.busy:
            limit, why = limits.dimse_timeout, ""
        elif state in _PEER_IS_DUE:
            since = self._since(state)
            limit, why = limits.dimse_timeout, "the release was not answered within the DIMSE timeout"
        elif association.mid_message:
            limit, why = limits.dimse_timeout, "nothing more came of a message within the DIMSE timeout"
        else:
            limit, why = limits.idle_timeout, "idle timeout"
        silence = self._clock.seconds() - since
        if silence >= limit and why:
            association.abort(why)
            return
        # Not longer than the DIMSE timeout, for a message may begin at any time.
        wait = limit - silence if why and silence < limit else limits.dimse_timeout
        self._timer = self._clock.callLater(min(wait, limits.dimse_timeout), self._check)

    def _since(self, turn: object) -> float:
        """Since when `turn` is waited for: nothing else that the peer does makes that later."""
        if turn != self._turn:
            self._turn, self._turn_since = turn, self._last_activity
        return self._turn_since
