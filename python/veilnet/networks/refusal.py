"""Why an issuer says no: numbers on the wire, sentences for people.

The numbers are the `code` of JoinRefuse and RenewRefuse, and are for ever.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from veilnet.errors import PeerRefused
from veilnet.networks.names import printable


class Refusal(IntEnum):
    """A reason to give no credential."""

    OTHER = 0
    UNKNOWN_INVITE = 1
    EXPIRED = 2
    USED_UP = 3
    CANCELLED = 4
    FULL = 5
    NOT_ISSUER = 6
    NOT_DUE = 7
    ADDRESS_IN_USE = 8


_NEW_INVITE = "Ask whoever sent it for a new one; there: veilnet invite"
_TEXT: Final[dict[Refusal, tuple[str, str]]] = {
    Refusal.UNKNOWN_INVITE: ("the inviter does not know this invite", _NEW_INVITE),
    Refusal.EXPIRED: ("the invite has expired", _NEW_INVITE),
    Refusal.USED_UP: ("the invite has been used up", _NEW_INVITE),
    Refusal.CANCELLED: ("the invite was taken back", _NEW_INVITE),
    Refusal.FULL: (
        "the network has as many members as it can have",
        "Ask the network's founder to let some memberships lapse.",
    ),
    Refusal.NOT_ISSUER: (
        "only the founder of a network invites to it and renews memberships",
        "Ask the founder of the network.",
    ),
    Refusal.NOT_DUE: (
        "the membership is not due for renewal",
        "Nothing needs to be done: it renews itself from a third of its life on.",
    ),
    Refusal.ADDRESS_IN_USE: (
        "another member has the overlay address that belongs to this node's key",
        "Report it; this node needs another identity.",
    ),
}


class Refused(PeerRefused):
    """An issuer gave no credential; `refusal` says why in a form for programs."""

    def __init__(
        self, message: str, *, hint: str = "", refusal: Refusal | int = Refusal.OTHER
    ) -> None:
        super().__init__(message, hint=hint)
        self.refusal = refusal

    @classmethod
    def of(cls, refusal: Refusal) -> Refused:
        """Return the error for a reason of our own."""
        message, hint = _TEXT[refusal]
        return cls(message, hint=hint, refusal=refusal)

    @classmethod
    def heard(cls, code: int, reason: str) -> Refused:
        """Return the error for what JoinRefuse or RenewRefuse said; never raises."""
        try:
            return cls.of(Refusal(code))
        except (ValueError, KeyError):
            # A newer issuer's reason: its own words, quoted.
            return cls(f"the peer refused: {printable(reason)}", refusal=code)
