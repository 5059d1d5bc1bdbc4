"""Traces of round-trip times: files of the public sets, or a generator where they are absent.

```
name.npz   rtt_ms         (slots, nodes, nodes)  uint16 or float, milliseconds
        or rtt_eighth_ms  (slots, nodes, nodes)  the same in 1/8 ms
           slot_s         optional scalar: the time between two slots
```
A zero off the diagonal is a measurement that is missing, never a round trip of 0 ms.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from attrs import field, frozen

from veilnet.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

Floats = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

VARIABLE: Final = "VEILNET_RTT"
"""Environment variable: a folder with ``seattle.npz`` and ``planetlab.npz``, or one trace."""

SLOT_S: Final = 15.7
"""Of a trace that does not say: that of the Seattle set."""

_ARRAYS: Final = {"rtt_ms": 1.0, "rtt_eighth_ms": 0.125}
_HINT: Final = (
    "A trace is an .npz with an array rtt_ms or rtt_eighth_ms of shape (slots, nodes, nodes); "
    "0 off the diagonal means missing."
)


@frozen(eq=False)
class Trace:
    """Round trips between nodes over time.

    Shape: *rtt_ms* (slots, nodes, nodes), NaN where missing and on the diagonal.
    """

    name: str
    rtt_ms: Floats = field(repr=False)
    slot_s: float
    why: str = ""
    """Why the generator stands in for the file that was asked for; empty for a file."""

    @property
    def slots(self) -> int:
        """How many points in time."""
        return int(self.rtt_ms.shape[0])

    @property
    def nodes(self) -> int:
        """How many nodes."""
        return int(self.rtt_ms.shape[1])

    def coverage(self) -> Floats:
        """Return the share of slots in which each pair was measured.  Shape: (nodes, nodes)."""
        return np.asarray(np.isfinite(self.rtt_ms).mean(axis=0))

    def held(self) -> Floats:
        """Return the round trips with what is missing held over from the slot before.

        Before a pair's first measurement that one stands in; a pair never measured stays NaN.
        """
        found = np.isfinite(self.rtt_ms)
        slots = np.arange(self.slots)[:, None, None]
        last = np.maximum.accumulate(np.where(found, slots, -1), axis=0)
        last = np.where(last < 0, found.argmax(axis=0)[None], last)
        return np.asarray(np.take_along_axis(self.rtt_ms, last, axis=0))


def load_trace(path: Path) -> Trace:
    """Read a trace.

    Raises: ConfigError: the file is not there, or is no trace; one line says why.
    """
    try:
        with path.open("rb") as raw:
            file = np.load(raw, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ConfigError(f"{path} is one bare array, not an .npz", hint=_HINT)
            return _trace(path, {name: file[name] for name in file.files if _wanted(name)})
    except FileNotFoundError as error:
        raise ConfigError(f"there is no trace {path}", hint=_HINT) from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"{path} cannot be read as .npz: {said}", hint=_HINT) from error


def _wanted(name: str) -> bool:
    return name in _ARRAYS or name == "slot_s"


def _trace(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Trace:
    names = [name for name in _ARRAYS if name in arrays]
    if len(names) != 1:
        raise ConfigError(
            f"{path} must hold one of rtt_ms and rtt_eighth_ms, and has {len(names)} of them",
            hint=_HINT,
        )
    raw = arrays[names[0]]
    if raw.dtype.kind not in "uif":
        raise ConfigError(f"{names[0]} in {path} holds {raw.dtype}, not numbers", hint=_HINT)
    if raw.ndim != 3 or raw.shape[1] != raw.shape[2]:
        raise ConfigError(
            f"{names[0]} in {path} has the shape {raw.shape}, not (slots, nodes, nodes)",
            hint=_HINT,
        )
    if raw.shape[0] < 2 or raw.shape[1] < 3:
        raise ConfigError(
            f"{path} has {raw.shape[0]} slots of {raw.shape[1]} nodes: at least 2 of 3 are needed",
            hint=_HINT,
        )
    rtt = raw.astype(np.float64) * _ARRAYS[names[0]]
    if bool((rtt < 0).any()):
        raise ConfigError(f"{names[0]} in {path} has negative round trips", hint=_HINT)
    rtt[~np.isfinite(rtt) | (rtt == 0)] = np.nan
    nodes = np.arange(rtt.shape[1])
    rtt[:, nodes, nodes] = np.nan
    slot_s = arrays.get("slot_s")
    return Trace(path.stem, rtt, SLOT_S if slot_s is None else _seconds(path, slot_s))


def _seconds(path: Path, value: np.ndarray[Any, Any]) -> float:
    if value.size == 1 and value.dtype.kind in "uif" and 0 < float(value.reshape(())) < 1e9:
        return float(value.reshape(()))
    raise ConfigError(f"slot_s in {path} is not one positive number of seconds", hint=_HINT)


def find_trace(name: str, *, folder: Path, seed: int = 0) -> Trace:
    """Return the set *name* (``seattle``, ``planetlab``) from *folder*, or a generated one.

    *folder* may also be one file, which then stands for every name.
    Raises: ConfigError: the file is there and is no trace.
    """
    path = folder if folder.is_file() else folder / f"{name}.npz"
    if path.exists():
        return load_trace(path)
    why = f"{path} is not there ({VARIABLE} names another place)"
    return generated(name, seed=seed, why=why)


def generated(name: str, *, seed: int, why: str = "asked for") -> Trace:
    """Return a trace of the kind of *name* from a random generator."""
    rng = np.random.default_rng([seed, 0x7472])
    if name == "planetlab":
        return Trace("generated hosts", _hosts(rng, nodes=120, slots=4), 3600.0, why)
    return Trace("generated devices", _devices(rng, nodes=60, slots=300), SLOT_S, why)


def _hosts(rng: np.random.Generator, *, nodes: int, slots: int) -> Floats:
    """Hosts in a few regions: the great circle, a detour per pair, an access line per host."""
    region = rng.normal(0, 30, (6, 2))[rng.integers(0, 6, nodes)] * (1.6, 1.0)
    place = region + rng.normal(0, 6, (nodes, 2))
    straight = np.hypot(*(place[:, None] - place[None]).transpose(2, 0, 1))
    # Routes are not geodesics: that some pairs gain by a relay is what this models.
    detour = 1 + rng.gamma(1.2, 0.35, (nodes, nodes))
    access = rng.gamma(1.5, 2.0, nodes)
    base = straight * detour * 1.6 + access[:, None] + access[None] + 2
    rtt = base[None] * np.exp(rng.normal(0, 0.04, (slots, nodes, nodes)))
    rtt[:, np.arange(nodes), np.arange(nodes)] = np.nan
    return np.asarray(rtt)


def _devices(rng: np.random.Generator, *, nodes: int, slots: int) -> Floats:
    """Personal devices: a measurement is held for a few slots, then may be several times as high.

    The time in a state is geometric (mean 6 slots); a state is the base, or for about a third of
    the time two to ten times as much; 1 % is missing.
    """
    base = np.repeat(_hosts(rng, nodes=nodes, slots=1), slots, axis=0) * 0.8
    shape = (slots, nodes, nodes)
    fresh = rng.random(shape) < 1 / 6
    fresh[0] = True
    busy = rng.random(shape) < rng.beta(1.0, 2.0, (1, nodes, nodes))
    level = np.where(busy, rng.uniform(2, 10, shape), np.exp(rng.normal(0, 0.1, shape)))
    slot = np.arange(slots)[:, None, None]
    last = np.maximum.accumulate(np.where(fresh, slot, 0), axis=0)
    rtt = np.maximum(10.0, np.round(base * np.take_along_axis(level, last, axis=0), -1))
    rtt[rng.random(shape) < 0.01] = np.nan
    rtt[:, np.arange(nodes), np.arange(nodes)] = np.nan
    return np.asarray(rtt)
