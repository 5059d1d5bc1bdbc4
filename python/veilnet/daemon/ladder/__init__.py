"""First contacts with no server: every way at once, and what came of each.

`ladder` runs the steps and tells what each of them found or why not; `lan`, `saved`, `known`,
`seeds` and `beacon` are steps; `portmap` asks the gateway for a port in the same manner.
"""

from veilnet.daemon.ladder.ladder import Found, Ladder, Off, Rung, Step
from veilnet.daemon.ladder.scope import Scope

__all__ = ["Found", "Ladder", "Off", "Rung", "Scope", "Step"]
