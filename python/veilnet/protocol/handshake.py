"""Both ends of VNH1 as machines: who does what when, without doing any of it.

```
        Initiation                                   Acceptance
        ----------                                   ----------
        GenerateKem                                  InitReceived (whole, cookie-proven)
        SendHello to endpoint 0, 250 ms later 1, ..  Encapsulate
        CandidateArrived -> Decapsulate, Try         Sign(th2 || idR)
        MessageOpened e2 -> VerifyPeer               Respond e2
        Sign(th3 || idI || idR)                      MessageOpened e3 -> VerifyPeer
        Authenticate e3, Resend                      Accept | Abandon
        SessionConfirmed -> Confirmed                Accepted
```
With a ticket, or at a circuit with a cookie, the first thing sent is INIT.  `Begun` follows
Authenticate if nothing else carries to the peer: data may be sent.
A lookup has neither identities nor signatures:
```
        Decapsulate, Try                             Encapsulate
        MessageOpened (empty) -> Confirmed           Respond (empty), Accepted
```
`start(now)`, `handle(event, now)` and `tick(now)` return actions.  Work (module `work`) goes to a
thread and comes back as an event; the rest are single calls of the engine, named in each action.
When such a call raises, the shell gives the error back as `WorkFailed`; but what `Try` raises is
the fault of that candidate alone, which anybody who holds the door key may have sent.

No clock of the wall is read: whether a credential has expired is judged after the handshake.

Source: docs/protocol.md.
"""

from __future__ import annotations

from veilnet.protocol.acceptance import Acceptance, Answering
from veilnet.protocol.identity import Identity, LocalIdentity, Peer
from veilnet.protocol.initiation import Calling, Initiation
from veilnet.protocol.steps import (
    NOBODY,
    Abandon,
    Accept,
    Accepted,
    Action,
    Authenticate,
    Begun,
    CandidateArrived,
    Confirmed,
    Dismiss,
    EndpointFound,
    Event,
    Failed,
    MessageOpened,
    Mode,
    Reject,
    Resend,
    Respond,
    Schedules,
    SendHello,
    SessionConfirmed,
    Terms,
    Try,
)
from veilnet.protocol.work import Primitives, Work, perform

__all__ = [
    "NOBODY",
    "Abandon",
    "Accept",
    "Acceptance",
    "Accepted",
    "Action",
    "Answering",
    "Authenticate",
    "Begun",
    "Calling",
    "CandidateArrived",
    "Confirmed",
    "Dismiss",
    "EndpointFound",
    "Event",
    "Failed",
    "Identity",
    "Initiation",
    "LocalIdentity",
    "MessageOpened",
    "Mode",
    "Peer",
    "Primitives",
    "Reject",
    "Resend",
    "Respond",
    "Schedules",
    "SendHello",
    "SessionConfirmed",
    "Terms",
    "Try",
    "Work",
    "perform",
]
