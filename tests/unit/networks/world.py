"""Identities, founders and issuers with fixed seeds, without a disk: what these tests share."""

import random
from functools import cache

from attrs import define, field

from veilnet import crypto
from veilnet.crypto import Backend, Identity
from veilnet.networks.endpoint import Endpoint
from veilnet.networks.genesis import Genesis
from veilnet.networks.issuer import Issuer
from veilnet.networks.member import Member

NOW = 1_800_000_000
DAY = 86_400
HERE = Endpoint("192.0.2.1", 41_000)


@cache
def backend() -> Backend:
    """Return the backend that needs no shared library of ours."""
    return crypto.load("cryptography")


@cache
def identity(number: int) -> Identity:
    """Return the identity of that number."""
    return Identity.from_seed(number.to_bytes(32, "big"), backend())


def seeded(number: int = 0):
    """Return a random source that is none."""
    return random.Random(number).randbytes


@define
class Office:
    """An issuer whose disk is `disk`; set `broken` to make writing fail."""

    genesis: Genesis
    disk: list[bytes] = field(factory=list)
    broken: bool = False
    issuer: Issuer = field(init=False)

    @classmethod
    def open(cls, number: int = 0) -> "Office":
        """Return the office of founder *number*."""
        genesis = Genesis.create(identity(number).public_key, now=NOW, rng=seeded(number))
        office = cls(genesis)
        office.issuer = Issuer(genesis, identity(number), office.persist)
        return office

    def persist(self, data: bytes) -> None:
        """Write, or fail as a full disk does."""
        if self.broken:
            raise OSError(28, "No space left on device")
        self.disk.append(data)

    def reboot(self) -> None:
        """Forget all but the disk."""
        self.issuer = Issuer.load(self.disk[-1], self.genesis, identity(0), self.persist)

    def invite(self, **options):
        """Return a new invite with one endpoint."""
        options = {"now": NOW, "rng": seeded(len(self.disk)), "endpoints": [HERE]} | options
        return self.issuer.invite(**options)

    def admit(self, invite, number: int, *, name: str = "node", now: int = NOW):
        """Admit identity *number*."""
        peer_id = identity(number).peer_id
        return self.issuer.admit(invite_id=invite.invite_id, peer_id=peer_id, name=name, now=now)

    def member(self, invite, number: int, *, name: str = "node", now: int = NOW) -> Member:
        """Admit identity *number* and return it as members see it."""
        admission = self.admit(invite, number, name=name, now=now)
        return Member(identity(number).public_key, admission.credential, admission.encoding)
