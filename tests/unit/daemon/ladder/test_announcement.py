"""Sealed announcements: nothing for those outside, nothing a second time."""

from __future__ import annotations

import random

import pytest

from tests.unit.daemon.ladder.steps import scope
from veilnet.daemon.ladder import announcement
from veilnet.daemon.ladder.announcement import ANSWER, ASK, Announcement, Opener, seal
from veilnet.daemon.ladder.scope import DAY_S
from veilnet.networks.endpoint import Endpoint
from veilnet.units import PeerId

OURS = scope(b"n", b"s")
OTHER = scope(b"m", b"t")
NOON = 20_000 * DAY_S + DAY_S // 2
PLACES = (Endpoint("192.0.2.7", 41_000), Endpoint("2001:db8::7", 41_000))
SAID = Announcement(ASK, PeerId(b"q" * 32), PLACES)


rng = random.Random(1)


def sealed(said=SAID, scope=OURS, now=NOON):
    """Return a datagram that says *said*."""
    return seal(said, scope, now=now, rng=rng.randbytes)


@pytest.mark.parametrize("kind", [ASK, ANSWER])
@pytest.mark.parametrize("places", [(), PLACES, PLACES * 2])
def test_a_member_reads_what_a_member_sealed(kind, places):
    """Kind, peer and endpoints come through, and every datagram has the same length."""
    said = Announcement(kind, b"q" * 32, places)
    data = sealed(said)
    assert len(data) == announcement.SIZE_BYTES
    assert Opener().open(data, [OTHER, OURS], now=NOON + 3) == (OURS, said)


def test_without_the_secret_there_is_nothing_to_see():
    """Other scopes open nothing; no byte of two hundred datagrams is favoured."""
    assert Opener().open(sealed(), [OTHER], now=NOON) is None
    many = [sealed() for _ in range(200)]
    for column in zip(*many, strict=True):
        assert len(set(column)) > 100
        assert max(column.count(value) for value in set(column)) < 12


def test_it_counts_once():
    """A replay is nothing, also when it comes much later within its time."""
    opener, data = Opener(), sealed()
    assert opener.open(data, [OURS], now=NOON) is not None
    assert opener.open(data, [OURS], now=NOON) is None
    assert opener.open(data, [OURS], now=NOON + announcement.MAX_AGE_S) is None


@pytest.mark.parametrize("late_s", [-121, 121, DAY_S, -DAY_S])
def test_out_of_its_time_it_is_nothing(late_s):
    """What was recorded long ago, or is from a clock that is wrong, is not believed."""
    assert Opener().open(sealed(), [OURS], now=NOON + late_s) is None


@pytest.mark.parametrize(("said_at", "heard_at"), [(-1, 1), (1, -1), (-60, 59), (0, 0)])
def test_midnight_is_no_gap(said_at, heard_at):
    """Around the change of the day's key both days' announcements are read."""
    midnight = 20_000 * DAY_S
    data = sealed(now=midnight + said_at)
    assert Opener().open(data, [OURS], now=midnight + heard_at) == (OURS, SAID)


def test_a_flipped_bit_or_another_length_is_nothing():
    """Nobody on the link can change an announcement."""
    data = sealed()
    for at in range(0, len(data), 7):
        broken = bytearray(data)
        broken[at] ^= 1
        assert Opener().open(bytes(broken), [OURS], now=NOON) is None
    for broken in (b"", data[:-1], data + b"\0"):
        assert Opener().open(broken, [OURS], now=NOON) is None


@pytest.mark.parametrize(
    "plain",
    [
        bytes((9,)),
        bytes((ASK,)) + NOON.to_bytes(8, "big") + bytes(32) + b"\5",
        bytes((ASK,)) + NOON.to_bytes(8, "big") + bytes(32) + b"\1\xff",
        bytes((ASK,)) + NOON.to_bytes(8, "big") + bytes(32) + b"\1\6" + bytes(6),
    ],
)
def test_nonsense_of_a_member_is_nothing(plain):
    """A member who seals what is no announcement is not heard, and breaks nothing."""
    padded = plain + bytes(announcement.PLAIN_BYTES - len(plain))
    padded = padded[:1] + NOON.to_bytes(8, "big") + padded[9:]
    cipher = announcement._cipher(OURS, NOON // DAY_S)
    data = b"n" * 12 + cipher.encrypt(b"n" * 12, padded, None)
    assert Opener().open(data, [OURS], now=NOON) is None


def test_nonces_are_bounded_and_forgotten_in_time(monkeypatch):
    """A full memory believes no more until the oldest may go; it never forgets one early."""
    monkeypatch.setattr(announcement, "NONCES_MAX", 8)
    opener = Opener()
    first = [sealed() for _ in range(8)]
    assert all(opener.open(data, [OURS], now=NOON) for data in first)
    assert opener.open(sealed(), [OURS], now=NOON) is None
    assert len(opener) == 8
    later = NOON + 2 * announcement.MAX_AGE_S + 1
    assert opener.open(sealed(now=later), [OURS], now=later) is not None
    assert len(opener) == 1


def test_the_secret_is_in_no_repr():
    """What is logged by accident tells nothing."""
    assert "sss" not in repr(OURS)
