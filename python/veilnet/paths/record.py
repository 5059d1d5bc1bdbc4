"""A trace of what a policy was told and what it said, to be replayed by a policy of the same seed.

```
{"call": "begin", "version": 1, "policy": NAME, "seed": INT, "state": HEX | null}
{"call": "set_arms", "to": HEX, "now": S, "arms": [{"id": [HEX], "own": S, "far": S, "in": [...]}]}
{"call": "update",   "to": HEX, "now": S, "samples": [[ID, rtt, loss, jitter, rtt_min, demand,
                                                       goodput, probe, busy]]}
{"call": "decide",   "to": HEX, "now": S, "quiet": BOOL, "said": [SHARES, probe, standby, reason]}
{"call": "forget",   "to": HEX}
```
One JSON object a line.  Floats are written so that they read back as they were, so a replay is
exact: same seed, same calls, same decisions.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from veilnet.errors import ConfigError
from veilnet.paths.policy import Arm, ArmId, Decision, Sample
from veilnet.units import PeerId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import TextIO

    from veilnet.paths.policy import ArmView, Destination, Policy

VERSION: Final = 1
MAX_BYTES: Final = 256 << 20
"""A trace that is forgotten on must not fill a disk: what comes after is not written."""


def open_trace(path: str) -> TextIO:
    """Open the file for a trace, emptied, for this user's eyes alone; each line is written at once.

    It names whom the node talks to, and a root's node must not be led to another file by a link.
    Raises: ConfigError: it cannot be written, or is somebody else's.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        trace = os.open(path, flags, 0o600)
        try:
            _check(os.fstat(trace))
            os.fchmod(trace, 0o600)
            os.ftruncate(trace, 0)
        except BaseException:
            os.close(trace)
            raise
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", None) == errno.ELOOP:
            why = "it is a symbolic link"
        raise ConfigError(
            f"the trace of paths cannot be written to {path}: {why}",
            hint="Let path_trace in config.toml name a new file in a folder of this user, or none.",
        ) from error
    # Lines of a running node are read by whoever looks into a failure.
    return os.fdopen(trace, "w", buffering=1, encoding="ascii")


def _check(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no regular file")
    if found.st_uid != os.geteuid() or found.st_nlink != 1:
        raise ValueError("it is there already, and not this user's alone")


class Recorder:
    """A policy that passes every call on to another, and writes it down; destinations are bytes.

    *write* takes one line with its line end.
    """

    def __init__(
        self,
        policy: Policy,
        write: Callable[[str], object],
        *,
        seed: int,
        state: bytes | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._policy = policy
        self._write = write
        self._left = max_bytes
        begin = {"call": "begin", "version": VERSION, "policy": policy.name, "seed": seed}
        self._line(begin | {"state": None if state is None else state.hex()})
        if state is not None:
            policy.load_state(state)

    @property
    def name(self) -> str:
        """The name of the policy inside."""
        return self._policy.name

    def set_arms(self, destination: Destination, arms: Sequence[Arm], now_s: float) -> None:
        """Pass it on."""
        said = [
            {
                "id": _id(arm.id),
                "own": float(arm.own_leg_s),
                "far": float(arm.far_leg_s),
                "in": sorted(arm.prefixes),
            }
            for arm in arms
        ]
        self._line({"call": "set_arms", "to": _to(destination), "now": now_s, "arms": said})
        self._policy.set_arms(destination, arms, now_s)

    def update(self, destination: Destination, samples: Sequence[Sample], now_s: float) -> None:
        """Pass it on."""
        said = [_sample(sample) for sample in samples]
        self._line({"call": "update", "to": _to(destination), "now": now_s, "samples": said})
        self._policy.update(destination, samples, now_s)

    def decide(self, destination: Destination, now_s: float, *, quiet: bool = False) -> Decision:
        """Pass it on, and write the answer down."""
        decision = self._policy.decide(destination, now_s, quiet=quiet)
        call = {"call": "decide", "to": _to(destination), "now": now_s, "quiet": quiet}
        self._line(call | {"said": _decision(decision)})
        return decision

    def explain(self, destination: Destination, now_s: float) -> tuple[ArmView, ...]:
        """Pass it on; it changes nothing, so it is not written."""
        return self._policy.explain(destination, now_s)

    def forget(self, destination: Destination) -> None:
        """Pass it on."""
        self._line({"call": "forget", "to": _to(destination)})
        self._policy.forget(destination)

    def state(self) -> bytes:
        """Return the state of the policy inside."""
        return self._policy.state()

    def load_state(self, data: bytes) -> None:
        """Refuse: what is loaded later than at the beginning would be missing in a replay.

        Raises: ConfigError: always.
        """
        del data
        raise ConfigError("a recorded policy gets its state when the record begins")

    def _line(self, value: dict[str, Any]) -> None:
        text = json.dumps(value, separators=(",", ":")) + "\n"
        if len(text) > self._left:
            self._left = 0
            return
        self._left -= len(text)
        self._write(text)


@frozen
class Replayed:
    """One decision of a trace, and what the policy of the replay said in the same place."""

    recorded: Decision
    said: Decision


def replay(lines: Iterable[str], make: Callable[[str, int], Policy]) -> Iterator[Replayed]:
    """Give the calls of a trace to the policy that *make* builds of its name and seed.

    Raises: ConfigError: a line is none of a trace.
    """
    policy: Policy | None = None
    for number, text in enumerate(lines, 1):
        try:
            value = json.loads(text)
            call = value["call"]
            if call == "begin":
                if value["version"] != VERSION:
                    raise ConfigError(f"a trace of version {value['version']} cannot be replayed")
                policy = make(value["policy"], value["seed"])
                if value["state"] is not None:
                    policy.load_state(bytes.fromhex(value["state"]))
                continue
            if policy is None:
                raise ConfigError("a trace begins with its beginning")
            said = _give(policy, call, value)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"line {number} is none of a trace: {error!r}") from error
        if said is not None:
            yield Replayed(_read_decision(value["said"]), said)


def _give(policy: Policy, call: str, value: dict[str, Any]) -> Decision | None:
    to = bytes.fromhex(value["to"])
    if call == "set_arms":
        arms = [
            Arm(_read_id(arm["id"]), arm["own"], arm["far"], frozenset(arm["in"]))
            for arm in value["arms"]
        ]
        policy.set_arms(to, arms, value["now"])
    elif call == "update":
        samples = [Sample(_read_id(arm), *rest) for arm, *rest in value["samples"]]
        policy.update(to, samples, value["now"])
    elif call == "decide":
        return policy.decide(to, value["now"], quiet=value["quiet"])
    elif call == "forget":
        policy.forget(to)
    else:
        raise ValueError(call)
    return None


def _to(destination: Destination) -> str:
    if not isinstance(destination, bytes):
        raise ConfigError("only destinations that are bytes can be recorded")
    return destination.hex()


def _id(arm: ArmId) -> list[str]:
    return [peer_id.hex() for peer_id in arm]


def _read_id(value: list[str]) -> ArmId:
    return tuple(PeerId(bytes.fromhex(item)) for item in value)


def _sample(sample: Sample) -> list[Any]:
    return [
        _id(sample.arm),
        None if sample.rtt_s is None else float(sample.rtt_s),
        float(sample.loss),
        float(sample.jitter_s),
        float(sample.rtt_min_s),
        float(sample.demand_bps),
        float(sample.goodput_bps),
        bool(sample.probe),
        bool(sample.busy),
    ]


def _decision(said: Decision) -> list[Any]:
    return [
        [[_id(arm), float(share)] for arm, share in said.shares],
        None if said.probe is None else _id(said.probe),
        None if said.standby is None else _id(said.standby),
        said.reason,
    ]


def _read_decision(value: list[Any]) -> Decision:
    shares, probe, standby, reason = value
    return Decision(
        shares=tuple((_read_id(arm), share) for arm, share in shares),
        probe=None if probe is None else _read_id(probe),
        standby=None if standby is None else _read_id(standby),
        reason=reason,
    )
