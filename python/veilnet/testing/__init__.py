"""Networks to test with: namespaces, wires and captures on one machine, without root.

`enter` (or `command`, for a subprocess) gets a program into namespaces of its own; `Lab` builds
hosts and wires there; `Capture` sees what a tap on a wire would see; `Node` is a real VeilNet on a
host.  `Backbone` is a router on which single ways can be cut, `Delays` wires that take time, `Flow`
a steady stream that says for how long it was silent.  `Internet` has public places, `Nat` networks
behind routers of every kind, `NatScene` two members behind two of them, `Strangers` nodes of the
commons at public places.

``python -m veilnet.testing COMMAND...`` runs a command in namespaces of its own.
"""

from veilnet.testing.backbone import Backbone
from veilnet.testing.capture import Capture, Frame
from veilnet.testing.carrier import carrier
from veilnet.testing.delay import Delays
from veilnet.testing.entry import check, command, enter, inside
from veilnet.testing.flow import Arrivals, Flow, Outage
from veilnet.testing.internet import Internet
from veilnet.testing.lab import Host, Lab, Wire
from veilnet.testing.nat import KINDS, Nat
from veilnet.testing.nat_scene import NatScene
from veilnet.testing.node import Node
from veilnet.testing.strangers import Strangers

__all__ = [
    "KINDS",
    "Arrivals",
    "Backbone",
    "Capture",
    "Delays",
    "Flow",
    "Frame",
    "Host",
    "Internet",
    "Lab",
    "Nat",
    "NatScene",
    "Node",
    "Outage",
    "Strangers",
    "Wire",
    "carrier",
    "check",
    "command",
    "enter",
    "inside",
]
