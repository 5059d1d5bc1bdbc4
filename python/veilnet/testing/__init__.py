"""Networks to test with: namespaces, wires and captures on one machine, without root.

`enter` (or `command`, for a subprocess) gets a program into namespaces of its own; `Lab` builds
hosts and wires there; `Capture` sees what a tap on a wire would see.
"""

from veilnet.testing.capture import Capture, Frame
from veilnet.testing.enter import check, command, enter, inside
from veilnet.testing.lab import Host, Lab, Wire

__all__ = ["Capture", "Frame", "Host", "Lab", "Wire", "check", "command", "enter", "inside"]
