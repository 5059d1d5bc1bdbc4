"""Which policies there are, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from veilnet.errors import ConfigError
from veilnet.paths.bandits import DiscountedThompson, Exp3, LinUcb, Via
from veilnet.paths.greedy import Greedy
from veilnet.paths.plain import Anywhere, Direct
from veilnet.paths.policy import Policy
from veilnet.paths.veil import Veil

Factory = Callable[[np.random.Generator], Policy]

_FACTORIES: Final[dict[str, Factory]] = {
    Veil.name: Veil,
    Greedy.name: Greedy,
    LinUcb.name: LinUcb,
    Anywhere.name: Anywhere,
    Direct.name: Direct,
    DiscountedThompson.name: DiscountedThompson,
    Exp3.name: Exp3,
    Via.name: Via,
}
"""By name; those after the first are baselines."""


def policy_names() -> tuple[str, ...]:
    """Return the names that `make_policy` takes, the shipped one first."""
    return tuple(_FACTORIES)


def make_policy(name: str, *, rng: np.random.Generator) -> Policy:
    """Return a fresh policy; the daemon and the experiments wrap it in `Guard`.

    Raises: ConfigError: there is no policy of that name.
    """
    factory = _FACTORIES.get(name)
    if factory is None:
        raise ConfigError(
            f"there is no path policy called {name!r}",
            hint=f"There are: {', '.join(_FACTORIES)}.",
        )
    return factory(rng)
