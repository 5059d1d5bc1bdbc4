"""The real program in namespaces: ``pytest tests/netns`` starts itself again inside some.

In a run of all tests, which has no namespaces, these are skipped; ``just test`` runs them apart.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.netns.scenes import World
from veilnet.errors import PrivilegeError
from veilnet.testing import Lab, enter, inside

HERE = Path(__file__).parent


def pytest_cmdline_main(config: pytest.Config) -> None:
    """Enter namespaces before anything else; only asked of us if the tests named are ours."""
    if inside() or config.option.collectonly or not _all_ours(config):
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.suspend_global_capture(in_=True)  # or the new program would write into a file
    try:
        enter()
    except PrivilegeError as error:
        raise pytest.UsageError(str(error)) from error


def _all_ours(config: pytest.Config) -> bool:
    named = [Path(text.partition("::")[0]).resolve() for text in config.args]
    return bool(named) and all(path.is_relative_to(HERE) for path in named)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is ours, and skip it where there are no namespaces."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("netns")
            if not inside():
                item.add_marker(pytest.mark.skip(reason="run apart: pytest tests/netns"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Add what the nodes logged to the report of a test that failed."""
    report = yield
    if report.failed:
        report.sections += [("logs of the nodes", world.logs()) for world in World.alive]
    return report


@pytest.fixture
def lab():
    """An empty lab; whatever runs in it ends with the test."""
    with Lab() as made:
        yield made
