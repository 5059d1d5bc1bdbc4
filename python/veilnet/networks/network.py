"""One network that this node is in, and where it lies in the state folder.

```
STATE/networks/<network id in hex>/
  network.cbor   [version, since, name, genesis, K_net, our public key, our credential]
                 written last
  members.db     the member table (networks.roster), with what SQLite keeps beside it
  issuer.cbor    invites and issued credentials (networks.issuer), at the founder only
```
A folder without network.cbor is a network that was never finished, and does not exist.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from veilnet.errors import ConfigError, PeerIncompatible, PeerRefused, RemoteProtocolError
from veilnet.networks import credential as credentials
from veilnet.networks import keys
from veilnet.networks.credential import MAX_CREDENTIAL_BYTES
from veilnet.networks.genesis import MAX_GENESIS_BYTES, Genesis
from veilnet.networks.issuer import Issuer
from veilnet.networks.keys import KEY_BYTES
from veilnet.networks.member import Member, check_key
from veilnet.networks.members import MemberTable
from veilnet.networks.names import MAX_NAME_CHARACTERS, is_name, parse_name
from veilnet.networks.records import Record
from veilnet.networks.refusal import Refusal, Refused
from veilnet.networks.roster import DamagedRoster
from veilnet.protocol import cbor
from veilnet.protocol.messages import MemberEntry
from veilnet.units import NetworkId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from ipaddress import IPv4Address, IPv6Address, IPv6Network
    from pathlib import Path

    from veilnet.errors import VeilError
    from veilnet.networks.credential import Credential, Signer, Verifier
    from veilnet.networks.endpoint import Endpoint
    from veilnet.networks.invite import Invite
    from veilnet.networks.issuer import Admission
    from veilnet.networks.keys import Rng
    from veilnet.store import Store
    from veilnet.units import PeerId

FOLDER: Final = "networks"
DEFAULT_NAME: Final = "home"

log = structlog.get_logger("veilnet.networks")

_VERSION = 1
_MEMBERS = "members.db"


class SignatureBackend(Protocol):
    """What is needed of `crypto.Backend`."""

    def signatures(self, suite: int) -> Verifier:
        """Return the signatures of a suite."""
        ...


class Network:
    """A network with our credential in it.  Not for several threads at once."""

    def __init__(
        self,
        genesis: Genesis,
        *,
        name: str,
        k_net: bytes,
        own: Member,
        since: int,
        members: Iterable[Member] | MemberTable = (),
        issuer: Issuer | None = None,
    ) -> None:
        self.genesis: Final = genesis
        self.since: Final = since
        """When this node founded or joined it."""
        self.name = name
        """What this node calls it: a label, unique on the node."""
        self.k_net = k_net
        self.own = own
        self.issuer: Final = issuer
        pinned = (own.peer_id, *genesis.owner_ids)
        self.members: Final = (
            members if isinstance(members, MemberTable) else MemberTable(members, pinned=pinned)
        )
        self.members.merge((own,), own.credential.not_before)

    def __repr__(self) -> str:
        return f"<Network {self.name} {self.id.hex()[:12]} of {len(self.members)} members>"

    @classmethod
    def found(
        cls,
        store: Store,
        signer: Signer,
        *,
        node_name: str,
        now: int,
        rng: Rng,
        name: str = DEFAULT_NAME,
    ) -> Network:
        """Found a private network with this node as its only member, and save it.

        Raises: ConfigError, PrivilegeError: the state folder cannot be written.
        """
        genesis = Genesis.create(signer.public_key, now=now, rng=rng)
        path = _folder(genesis.network_id)
        issuer = Issuer(genesis, signer, lambda data: store.write(f"{path}/issuer.cbor", data))
        admission = issuer.enrol_self(node_name, now)
        own = Member(signer.public_key, admission.credential, admission.encoding)
        k_net = rng(KEY_BYTES)
        network = cls(
            genesis, name=parse_name(name), k_net=k_net, own=own, since=now, issuer=issuer
        )
        network.save(store)
        return network

    @classmethod
    def load(
        cls, store: Store, network_id: NetworkId, signer: Signer, backend: SignatureBackend
    ) -> Network | None:
        """Return the network as `save` left it, None if there is none of that id.

        Raises: ConfigError: a file is damaged, or belongs to another identity.
        """
        path = _folder(network_id)
        data = store.read(f"{path}/network.cbor", max_bytes=cbor.MAX_BYTES)
        if data is None:
            return None
        kept = store.path / path / "network.cbor"
        with _whole(kept):
            record = Record.decode("it", data, 7, blame=ConfigError)
            record.version(_VERSION)
            since = record.time()
            name = record.text(most=MAX_NAME_CHARACTERS)
            if not is_name(name):
                raise record.wrong("the name is no lower-case DNS label")
            genesis = Genesis.decode(record.data(most=MAX_GENESIS_BYTES), blame=ConfigError)
            k_net = record.octets(KEY_BYTES)
            public_key = record.octets(genesis.signature.public_key_bytes)
            encoding = record.data(most=MAX_CREDENTIAL_BYTES)
            if genesis.network_id != network_id:
                raise record.wrong("it is another network's")
        if public_key != signer.public_key:
            raise ConfigError(
                f"{path} belongs to another identity than this node's",
                hint="Restore the identity it was made with, or remove the folder and join again.",
            )
        with _whole(kept):
            own = _own(encoding, genesis, signer, backend.signatures(genesis.suite), ConfigError)
        issuer = None
        if signer.peer_id in genesis.owner_ids:
            state = store.read(f"{path}/issuer.cbor")
            if state is None:
                # A new one would give out serials and addresses twice.
                raise ConfigError(
                    f"{path}/issuer.cbor is missing, and this node is the network's issuer",
                    hint="Restore it from a backup.",
                )
            with _whole(store.path / path / "issuer.cbor"):
                issuer = Issuer.load(
                    state, genesis, signer, lambda data: store.write(f"{path}/issuer.cbor", data)
                )
        members = _open_members(store, path, pinned=(own.peer_id, *genesis.owner_ids))
        return cls(
            genesis,
            name=name,
            k_net=k_net,
            own=own,
            since=since,
            members=members,
            issuer=issuer,
        )

    def close(self) -> None:
        """Close the member table."""
        self.members.close()

    def save(self, store: Store) -> None:
        """Write everything but the issuer's state, which writes itself.

        Raises: ConfigError, PrivilegeError: what is there stays as it was.
        """
        self.saving(store)()

    def saving(self, store: Store, *, whole: bool = True) -> Callable[[], None]:
        """Return what saves, to be called in any thread; *whole*: not the member table alone."""
        path = _folder(self.id)
        data = self._encode() if whole else None

        def write() -> None:
            if not self.members.settled:
                self.members.settle(store.place(f"{path}/{_MEMBERS}"))
            self.members.flush()
            if data is not None:
                store.write(f"{path}/network.cbor", data)

        return write

    def _encode(self) -> bytes:
        return cbor.encode(
            [
                _VERSION,
                self.since,
                self.name,
                self.genesis.encoding,
                self.k_net,
                self.own.public_key,
                self.own.encoding,
            ]
        )

    # who and where

    @property
    def id(self) -> NetworkId:
        """The network's name that needs no trust."""
        return self.genesis.network_id

    @property
    def peer_id(self) -> PeerId:
        """This node's peer id in the network."""
        return self.own.peer_id

    @property
    def suite(self) -> int:
        """The number of the suite that every handshake in the network runs in."""
        return self.genesis.suite

    @property
    def prefix(self) -> IPv6Network:
        """The /48 of the network."""
        return self.genesis.prefix

    @property
    def addresses(self) -> tuple[IPv6Address | IPv4Address, ...]:
        """This node's addresses in the network, IPv6 first."""
        return self.own.addresses

    def door_key(self, peer_id: PeerId) -> bytes:
        """Return the key of the door that *peer_id* opens for members."""
        return keys.door_key(self.k_net, peer_id)

    # time and credentials

    def time(self, now: int) -> int:
        """Return the later of *now* and the newest time that an owner of the network signed."""
        return max(now, self.members.newest_signed, self.genesis.created)

    def is_valid(self, credential: Credential, now: int) -> bool:
        """Tell whether a verified credential holds now."""
        return credential.valid_at(max(self.time(now), credential.not_before))

    def recognise(self, public_key: bytes, encoding: bytes, signatures: Verifier) -> Member:
        """Return the member that a peer's key and credential make it; time is not judged.

        May run in another thread; verifies a signature unless the table has that credential.
        Raises: RemoteProtocolError: the credential does not hold, or is not for that key.
        """
        entry = MemberEntry(public_key=public_key, credential=encoding)
        return self.members.verify((entry,), self.genesis, signatures)[0]

    def judge(self, member: Member, now: int) -> bool:
        """Tell whether a recognised peer has a member's rights now; False: renewal alone.

        Raises: PeerRefused: its membership has lapsed and we cannot renew it, or its address is
        another member's.
        """
        self.members.check_addresses(member.credential, now)
        if self.is_valid(member.credential, now):
            return True
        if self.issuer is None:
            raise PeerRefused(
                f"the membership of {member.name} in {self.name} has lapsed",
                hint="It renews itself as soon as that node reaches the network's founder.",
            )
        return False

    def renewal_due(self, now: int) -> bool:
        """Tell whether this node should ask for its next credential (the founder: `renew_own`)."""
        return self.own.credential.renewal_due(self.time(now))

    def adopt(self, encoding: bytes, signer: Signer, signatures: Verifier, now: int) -> None:
        """Take this node's next credential in (RenewGrant); the caller saves.

        Raises: RemoteProtocolError: it is not ours, does not hold, or is older than what we have.
        """
        new = _own(encoding, self.genesis, signer, signatures, RemoteProtocolError)
        if new.credential.serial < self.own.credential.serial:
            raise RemoteProtocolError("the new credential is older than the one we have")
        if not self.is_valid(new.credential, now):
            raise RemoteProtocolError("the new credential has expired already")
        self._take_own(new, now)

    def renew_own(self, now: int) -> None:
        """Sign this node's next credential itself: the founder does; the caller saves.

        Raises: Refused: this node is not the founder.
        """
        admission = self.require_issuer().enrol_self(self.own.name, now)
        own = Member(self.own.public_key, admission.credential, admission.encoding)
        self._take_own(own, now)

    def welcome(
        self,
        admission: Admission,
        public_key: bytes,
        endpoints: Iterable[tuple[str, int]],
        now: int,
    ) -> Member:
        """Enter in the member table whom the issuer just admitted or renewed."""
        check_key(public_key, admission.credential, self.genesis)
        member = Member(public_key, admission.credential, admission.encoding)
        self.members.merge((member.seen_at(endpoints, now),), now)
        return member

    def require_issuer(self) -> Issuer:
        """Return the issuer.   Raises: Refused: this node is not the network's founder."""
        if self.issuer is None:
            raise Refused.of(Refusal.NOT_ISSUER)
        return self.issuer

    def invite(
        self,
        *,
        endpoints: Iterable[Endpoint],
        now: int,
        rng: Rng,
        uses: int = 1,
        life_s: int = 86_400,
        tags: Iterable[str] = (),
    ) -> Invite:
        """Return a new invite (`Issuer.invite`).   Raises: Refused: not the founder."""
        return self.require_issuer().invite(
            endpoints=endpoints, now=now, rng=rng, uses=uses, life_s=life_s, tags=tags
        )

    def _take_own(self, own: Member, now: int) -> None:
        known = self.members.get(self.peer_id)
        self.own = own if known is None else known.joined(own)
        self.members.merge((self.own,), now)


def check_none_lost(store: Store) -> None:
    """Check that no network with others in it lacks the file that says what it is.

    Raises: ConfigError: one does: to found another in its place would hide the loss.
    """
    for network_id in network_ids(store):
        path = _folder(network_id)
        if "network.cbor" in (names := store.names(path)) or _MEMBERS not in names:
            continue
        table = _open_members(store, path, pinned=())
        others = len(table) - 1
        table.close()
        if others > 0:
            raise ConfigError(
                f"{store.path / path}/network.cbor is missing, and others are in that network",
                hint="Restore it from a backup. If joining was interrupted there, remove the "
                "folder, and join again.",
            )


def remove_all(store: Store, network_id: NetworkId) -> None:
    """Remove every file of a network; what is left of it after a crash is no network any more."""
    path = _folder(network_id)
    names = store.names(path)
    for name in sorted(names, key=lambda name: name != "network.cbor"):
        store.remove(f"{path}/{name}")


def network_ids(store: Store) -> tuple[NetworkId, ...]:
    """Return the ids of all networks in the state folder, unfinished ones included."""
    found = []
    for name in store.names(FOLDER):
        try:
            network_id = bytes.fromhex(name)
        except ValueError:
            continue
        if len(network_id) == 32 and network_id.hex() == name:
            found.append(NetworkId(network_id))
    return tuple(found)


def check_suite(genesis: Genesis, signer: Signer) -> None:
    """Check that this node's identity is of the network's suite.

    Raises: PeerIncompatible: it is not.
    """
    if len(signer.public_key) != genesis.signature.public_key_bytes:
        raise PeerIncompatible(
            f"the network wants identities of {genesis.signature.name}, and ours is another",
            hint="Join with another state folder (--state DIR), with an identity of that suite.",
        )


def _own(
    encoding: bytes,
    genesis: Genesis,
    signer: Signer,
    signatures: Verifier,
    blame: type[VeilError],
) -> Member:
    credential = credentials.verify(encoding, genesis, signatures, blame=blame)
    check_key(signer.public_key, credential, genesis, blame=blame)
    return Member(signer.public_key, credential, encoding)


def _open_members(store: Store, path: str, *, pinned: Iterable[PeerId]) -> MemberTable:
    """Open the member table; a damaged one is put aside, for others tell of the members again."""
    name = f"{path}/{_MEMBERS}"
    try:
        return MemberTable(pinned=pinned, path=store.place(name))
    except DamagedRoster as error:
        kept = store.put_aside(name)
        log.warning("members lost", reason=error.message, kept=kept)
    for left in ("-wal", "-shm"):
        store.remove(f"{name}{left}")
    return MemberTable(pinned=pinned, path=store.place(name))


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(
            f"{path} is damaged: {error.message}",
            hint="Restore it from a backup; whoever is not the network's founder may remove the "
            "folder instead, and join again.",
        ) from error


def _folder(network_id: NetworkId) -> str:
    return f"{FOLDER}/{network_id.hex()}"
