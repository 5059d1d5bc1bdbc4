"""Which single error a group of errors stands for."""

from __future__ import annotations

from veilnet.errors import VeilError


def unwrap(error: BaseException) -> BaseException:
    """Return the error that decides what the user is told.

    trio wraps whatever leaves a nursery in (nested) groups: a VeilError inside wins, because it
    says what to do; else the first plain error; an error that is no group is itself.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = list(_leaves(error))
    return next((leaf for leaf in leaves if isinstance(leaf, VeilError)), leaves[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found
