"""What `doctor` says of the ways to first contacts."""

from __future__ import annotations

from veilnet.cli.ladder import checks

BASE = {"state": "idle", "tried": 1, "found": 0, "worked": 0}


def test_every_step_is_told_with_its_remedy():
    """What worked is ok, what failed or is off is a dash with what can be done; nothing is bad."""
    whole, saved, lan, beacon, portmap, seeds = checks(
        {
            "first": "lan",
            "after_s": 0.42,
            "steps": [
                BASE
                | {"name": "saved", "state": "failed", "failed": "no contact", "remedy": "Meet."},
                BASE
                | {"name": "lan", "state": "worked", "found": 2, "worked": 1, "took_s": 0.4}
                | {"note": "listens on eth0"},
                BASE
                | {"name": "beacon", "state": "off", "failed": "switched off", "remedy": "Set it."},
                BASE | {"name": "portmap", "state": "running", "note": "192.0.2.1:5 leads here"},
                BASE | {"name": "seeds"},
            ],
        }
    )
    assert (whole.ok, whole.detail) == (True, "by lan after 0.42 s")
    assert (saved.ok, saved.detail, saved.hint) == (None, "no contact", "Meet.")
    assert lan.ok is True
    assert lan.detail == "listens on eth0; found 2, of which 1 answered; the first after 0.4 s"
    assert (beacon.ok, beacon.detail, beacon.hint) == (None, "off: switched off", "Set it.")
    assert (portmap.ok, portmap.detail) == (True, "192.0.2.1:5 leads here")
    assert (seeds.ok, seeds.detail) == (None, "nothing found in 1 tries")


def test_no_contact_yet_is_told_first():
    """A node that found nobody knows where to read on."""
    (whole,) = checks({"first": None, "steps": []})
    assert whole.ok is None
    assert "finding.md" in whole.hint
