"""Which way traffic takes: arms, samples, and policies that learn from them.

A policy (`make_policy`) proposes, a `Guard` around it disposes, the daemon acts.  numpy and
nothing else; no clock, no socket and no random source of its own.
"""

from veilnet.paths.guard import Budgets, Guard
from veilnet.paths.policy import (
    DIRECT,
    MAX_SHARES,
    Arm,
    ArmId,
    ArmView,
    Decision,
    Destination,
    Policy,
    Sample,
)
from veilnet.paths.registry import make_policy, policy_names

__all__ = [
    "DIRECT",
    "MAX_SHARES",
    "Arm",
    "ArmId",
    "ArmView",
    "Budgets",
    "Decision",
    "Destination",
    "Guard",
    "Policy",
    "Sample",
    "make_policy",
    "policy_names",
]
