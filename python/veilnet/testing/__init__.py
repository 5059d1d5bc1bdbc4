"""Networks to test with: namespaces, wires and captures on one machine, without root.

`enter` (or `command`, for a subprocess) gets a program into namespaces of its own; `Lab` builds
hosts and wires there; `Capture` sees what a tap on a wire would see; `Node` is a real VeilNet on a
host.  ``python -m veilnet.testing COMMAND...`` runs a command in namespaces of its own.
"""

from veilnet.testing.capture import Capture, Frame
from veilnet.testing.entry import check, command, enter, inside
from veilnet.testing.lab import Host, Lab, Wire
from veilnet.testing.node import Node

__all__ = ["Capture", "Frame", "Host", "Lab", "Node", "Wire", "check", "command", "enter", "inside"]
