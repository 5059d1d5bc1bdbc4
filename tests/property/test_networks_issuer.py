"""The issuer under crashes: whatever is lost, nothing is given out twice."""

from collections import defaultdict
from unittest import mock

from attrs import frozen
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from tests.unit.networks.world import DAY, HERE, NOW, identity, seeded
from veilnet.errors import UsageError
from veilnet.networks.genesis import Genesis
from veilnet.networks.issuer import MAX_INVITES, Issuer
from veilnet.networks.refusal import Refused
from veilnet.units import PeerId

GENESIS = Genesis.create(identity(0).public_key, now=NOW, rng=seeded())
PEERS = [PeerId(bytes([number]) * 32) for number in range(1, 8)]
FEW_ADDRESSES = list(GENESIS.ipv4_range.hosts())[:4]


class PowerCutError(Exception):
    """The machine lost its power here."""


@frozen
class Pen:
    """A signer that only remembers: what it signed may be out in the world for ever."""

    peer_id: PeerId
    public_key: bytes

    def sign(self, message, context):
        """Return what nobody verifies here."""
        del message, context
        return bytes(8)


class CrashingIssuer(RuleBasedStateMachine):
    """An issuer whose power fails before writing, after writing, or never."""

    invites = Bundle("invites")

    def __init__(self):
        super().__init__()
        self.now = NOW
        self.disk = b""
        self.cut = "never"
        self.rng = seeded(1)
        self.pen = Pen(identity(0).peer_id, identity(0).public_key)
        self.signed = []
        self.holders = defaultdict(set)
        self.uses = {}
        patch = mock.patch("veilnet.networks.issuer.ipv4_hosts", return_value=FEW_ADDRESSES)
        patch.start()
        self.unpatch = patch.stop
        self.issuer = Issuer(GENESIS, self.pen, self.persist)
        self.note(self.issuer.enrol_self("laptop", self.now))

    def teardown(self):
        """Give the range its addresses back."""
        self.unpatch()

    def persist(self, data):
        """Write to the disk, unless the power fails."""
        if self.cut == "before writing":
            raise PowerCutError
        self.disk = data
        if self.cut == "after writing":
            raise PowerCutError

    def note(self, admission):
        """Remember what left the issuer."""
        self.signed.append(admission.credential)

    def attempt(self, call):
        """Call, and reboot from the disk if the power failed; return None then."""
        try:
            return call()
        except PowerCutError:
            self.cut = "never"
            self.issuer = Issuer.load(self.disk, GENESIS, self.pen, self.persist)
            return None
        except (Refused, UsageError):
            return None

    @rule(cut=st.sampled_from(["before writing", "after writing", "never"]))
    def plan_power_cut(self, cut):
        """The next write meets this."""
        self.cut = cut

    @rule(seconds=st.sampled_from([1, 3_600, DAY, 11 * DAY, 31 * DAY]))
    def time_passes(self, seconds):
        """The clock goes on."""
        self.now += seconds

    @rule()
    def clock_falls_back(self):
        """Somebody sets the clock back."""
        self.now = max(NOW, self.now - 5 * DAY)

    @rule(target=invites, uses=st.integers(1, 3), life_s=st.sampled_from([60, DAY, 30 * DAY]))
    def invite(self, uses, life_s):
        """Give out an invite."""
        made = self.attempt(
            lambda: self.issuer.invite(
                endpoints=[HERE], now=self.now, rng=self.rng, uses=uses, life_s=life_s
            )
        )
        if made is None:
            return bytes(8)
        self.uses[made.invite_id] = uses
        return made.invite_id

    @rule(
        invite_id=invites, peer=st.sampled_from(PEERS), name=st.sampled_from(["a", "b", "laptop"])
    )
    def admit(self, invite_id, peer, name):
        """Somebody with an invite asks."""
        admission = self.attempt(
            lambda: self.issuer.admit(invite_id=invite_id, peer_id=peer, name=name, now=self.now)
        )
        if admission is not None:
            self.note(admission)
            self.holders[invite_id].add(peer)

    @rule(invite_id=invites)
    def cancel(self, invite_id):
        """Take an invite back."""
        if invite_id in {item.invite_id for item in self.issuer.invites(self.now)}:
            self.attempt(lambda: self.issuer.cancel(invite_id, self.now))

    @precondition(lambda self: self.signed)
    @rule(data=st.data())
    def renew(self, data):
        """Somebody with a credential of any age asks for the next."""
        current = data.draw(st.sampled_from(self.signed))
        admission = self.attempt(lambda: self.issuer.renew(current, self.now))
        if admission is not None:
            self.note(admission)

    @invariant()
    def no_invite_admits_more_than_its_uses(self):
        """As many peers hold a credential by an invite as it had uses."""
        for invite_id, peers in self.holders.items():
            assert len(peers) <= self.uses[invite_id]

    @invariant()
    def no_serial_twice_and_they_rise(self):
        """Of two credentials it is always clear which is newer."""
        serials = [item.serial for item in self.signed]
        assert serials == sorted(set(serials))

    @invariant()
    def no_address_of_two_living_holders(self):
        """By the issuer's signed times, which no clock can turn back."""
        for index, one in enumerate(self.signed):
            for other in self.signed[index + 1 :]:
                if one.ipv4 is not None and one.ipv4 == other.ipv4:
                    overlap = one.not_before <= other.not_after and (
                        other.not_before <= one.not_after
                    )
                    assert one.peer_id == other.peer_id or not overlap

    @invariant()
    def no_name_of_two_peers(self):
        """A name belongs to the first peer that held it."""
        owners = defaultdict(set)
        for item in self.signed:
            owners[item.name].add(item.peer_id)
        assert all(len(peers) == 1 for peers in owners.values())

    @invariant()
    def doors_are_bounded(self):
        """The node has doors left for its networks."""
        assert len(self.issuer.doors(self.now)) <= MAX_INVITES


TestCrashingIssuer = CrashingIssuer.TestCase
TestCrashingIssuer.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
