import os
from pathlib import Path

import pytest

from veilnet.sim.traces import VARIABLE, Trace, find_trace

RTT = Path(os.environ.get(VARIABLE) or Path(__file__).parents[3] / "shared" / "data" / "rtt")


def pytest_report_header() -> list[str]:
    """Say which traces are generated, and why: the same tests run on them."""
    found = [find_trace(name, folder=RTT) for name in ("planetlab", "seattle")]
    return [f"{trace.name} stand in: {trace.why}" for trace in found if trace.why]


@pytest.fixture(scope="session")
def bases() -> Trace:
    """Recorded bases; where the data is not, generated ones go through the same code."""
    return find_trace("planetlab", folder=RTT)


@pytest.fixture(scope="session")
def recorded() -> Trace:
    """The recorded trace of devices, or a generated one."""
    return find_trace("seattle", folder=RTT)
