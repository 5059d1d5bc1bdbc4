"""For whom this node relays: the file's word, and what commands have said since."""

from __future__ import annotations

import pytest

from veilnet.config import Config
from veilnet.daemon.relays.lending import Lending
from veilnet.daemon.remembered import Remembered
from veilnet.errors import UsageError
from veilnet.protocol.relay import Terms


def lending(said=None, **keys):
    """What holds after *said*, with *keys* in the file."""
    return Lending(Config(**keys), Remembered(relay=said or {}))


@pytest.mark.parametrize(
    ("relay", "own", "strangers"),
    [("own", True, False), ("all", True, True), ("off", False, False)],
)
def test_the_file_decides_until_a_command_does(relay, own, strangers):
    """And a command goes before it."""
    terms = lending(relay=relay).terms
    assert (terms.for_own, terms.for_strangers) == (own, strangers)
    assert lending({"relay": relay}, relay="own").terms == terms
    assert lending().terms == Terms()


def test_a_change_keeps_what_was_said_before():
    """And says nothing of what it does not name."""
    made = lending({"relay": "off"}, relay_circuits=8)
    said = made.changed({"relay_rate_bps": 10**6, "relay_circuits": None})
    assert said == {"relay": "off", "relay_rate_bps": 10**6}
    assert (made.set_by["relay"], made.set_by["relay_circuits"]) == ("command", "config")
    with pytest.raises(UsageError):
        made.changed({"relay_rate_bps": -1})


def test_what_cannot_be_read_is_no_consent():
    """A later release's word is not taken for a yes, and costs nothing else that was said."""
    made = lending({"relay": "friends", "relay_circuits": 9, "relay_weather": "fine"})
    assert not made.terms.for_own
    assert made.terms.circuits == 9
