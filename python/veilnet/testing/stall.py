"""A node whose Python can be made to stand still: for some seconds, with the GIL held.

```
node.foreground(prelude=stall.prelude(8))
stall.stall(node)                            # for 8 s not one line of Python runs in it
```
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from veilnet.testing.node import Node

_PRELUDE = """
import ctypes, signal, threading

signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGUSR2}})

def hold():
    while True:
        signal.sigwait({{signal.SIGUSR2}})
        # Unlike CDLL, PyDLL keeps the GIL over the call.
        ctypes.PyDLL(None).usleep({microseconds})

threading.Thread(target=hold, daemon=True).start()
"""


def prelude(seconds: float) -> str:
    """Return statements for `Node.foreground`: each SIGUSR2 then stalls it for so long."""
    return _PRELUDE.format(microseconds=round(seconds * 1e6))


def stall(node: Node) -> None:
    """Let *node*'s Python stand still from now on, for the time that its prelude says."""
    for pid in node.pids():
        os.kill(pid, signal.SIGUSR2)
