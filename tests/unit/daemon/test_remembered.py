"""What a node remembers of itself."""

from __future__ import annotations

import os

import pytest

from veilnet.daemon.remembered import RECENT_MAX, Remembered
from veilnet.errors import ConfigError
from veilnet.store import Store


@pytest.fixture
def store(tmp_path):
    """An empty state folder."""
    with Store.open(tmp_path / "state") as made:
        yield made


def test_it_comes_back(store):
    """Port, operator and recent peers survive a restart."""
    made = Remembered(41000, 1000, 1000, [("aa", "bb")])
    made.save(store)
    assert Remembered.load(store) == made


def test_the_file_stays_small_enough_to_be_read(store):
    """Whatever the node had to do with: a file that is too long would keep it from starting."""
    Remembered(recent=[("aa" * 32, "bb" * 32)] * 20_000).save(store)
    assert len(Remembered.load(store).recent) == RECENT_MAX


def test_what_has_not_changed_is_not_written(store, monkeypatch):
    """A restart needs no free disk: the file that is right stays untouched."""
    made = Remembered(41000)
    made.save(store)
    monkeypatch.setattr(store, "write", pytest.fail)
    made.save(store)


def test_a_first_start_remembers_nothing(store):
    """Without a file there is no port yet and no operator."""
    assert Remembered.load(store) == Remembered()


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b'{"x": 1}', b'{"recent": 3}', b'{"operator_uid": "0"}']
)
def test_a_damaged_file_is_named(store, data):
    """A file that `save` did not write is the operator's to see to, with exit 7."""
    store.write("node.json", data)
    with pytest.raises(ConfigError, match=r"node\.json"):
        Remembered.load(store)


def test_the_first_sudo_is_the_operator(monkeypatch):
    """Who called sudo at the first start stays operator; a user's environment proves nothing."""
    made = Remembered()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    made.note_operator({"SUDO_UID": "0", "SUDO_GID": "0"})
    assert made.operator_uid is None
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    made.note_operator({"SUDO_UID": "1000", "SUDO_GID": "1001"})
    made.note_operator({"SUDO_UID": "1005", "SUDO_GID": "1005"})
    assert (made.operator_uid, made.operator_gid) == (1000, 1001)
