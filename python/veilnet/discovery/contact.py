"""Contacts: unsigned hearsay of where a node of the commons is, and which of it may be asked.

```
packed = id 32 | address 16 (an IPv4 one as ::ffff:a.b.c.d) | port u16 | flags u8      51 bytes
```
Tables, messages and files keep the packed form; a `Contact` is made where one leaves the machine.
The id is a claim: who answers at the address says its own, and that is what counts from then on.
Ids cost nothing, so wherever there is a choice it is made by prefix of the address (/24, /48).
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from veilnet.errors import LocalProtocolError, RemoteProtocolError
from veilnet.networks.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ID_BYTES: Final = 32
PACKED_BYTES: Final = 51
ADDRESS: Final = slice(32, 50)
"""Address and port in the packed form: what tells one contact from another."""
MAX_CONTACTS: Final = 20
"""In one answer."""

STORES: Final = 1
"""Keeps descriptors of others."""
RELAYS: Final = 2
"""Relays for strangers."""

UNKNOWN_ID: Final = bytes(ID_BYTES)
"""Of an endpoint that was found without an id (an invite, the local link, DNS)."""

VERSIONS: Final = frozenset({4, 6})
_MAPPED: Final = bytes(10) + b"\xff\xff"
_IPV4_PREFIX_BYTES: Final = 15
_IPV6_PREFIX_BYTES: Final = 6
_IPV6_BLOCK_BYTES: Final = 4


@frozen(init=False, repr=False)
class Contact:
    """One node as somebody told of it."""

    packed: bytes

    def __init__(self, id: bytes, endpoint: tuple[str, int], flags: int = 0) -> None:  # noqa: A002
        if len(id) != ID_BYTES or not 0 <= flags < 256:
            raise LocalProtocolError("a contact has an id of 32 bytes and flags of one")
        self.__attrs_init__(id + pack_endpoint(endpoint) + bytes((flags,)))

    @classmethod
    def unpack(cls, packed: bytes) -> Contact:
        """Return the contact in *packed*; its address is judged by `Horizon`, not here.

        Raises: RemoteProtocolError: another length, or port 0.
        """
        if len(packed) != PACKED_BYTES or packed[48:50] == b"\0\0":
            raise RemoteProtocolError("a contact has 51 bytes and a port")
        return _made(packed)

    @property
    def id(self) -> bytes:
        """The id it is said to have; `UNKNOWN_ID` if nobody said."""
        return self.packed[:ID_BYTES]

    @property
    def endpoint(self) -> Endpoint:
        """Where to ask it."""
        return unpack_endpoint(self.packed[ADDRESS])

    @property
    def address(self) -> bytes:
        """The packed endpoint, 18 bytes: a cheap key."""
        return self.packed[ADDRESS]

    @property
    def flags(self) -> int:
        """`STORES`, `RELAYS`."""
        return self.packed[50]

    def __repr__(self) -> str:
        return f"<Contact {self.packed[:6].hex()} at {self.endpoint}>"


def _made(packed: bytes) -> Contact:
    contact = Contact.__new__(Contact)
    contact.__attrs_init__(packed)
    return contact


def pack_endpoint(endpoint: tuple[str, int]) -> bytes:
    """Return address and port in 18 bytes.

    Raises: LocalProtocolError: no literal address, or no port.
    """
    host, port = endpoint
    try:
        packed = ip_address(host.partition("%")[0]).packed
    except ValueError as error:
        raise LocalProtocolError("an endpoint's host is no literal address") from error
    if not 0 < port < 65_536:
        raise LocalProtocolError(f"{port} is no UDP port")
    return (packed if len(packed) == 16 else _MAPPED + packed) + port.to_bytes(2, "big")


def unpack_endpoint(packed: bytes) -> Endpoint:
    """Return the endpoint in 18 bytes, in its one normal form."""
    port = int.from_bytes(packed[16:], "big")
    if packed.startswith(_MAPPED):
        return Endpoint("{}.{}.{}.{}".format(*packed[12:16]), port)
    return Endpoint(str(IPv6Address(packed[:16])), port)


def split(packed: bytes, most: int = MAX_CONTACTS) -> Iterator[bytes]:
    """Yield the packed contacts of an answer.

    Raises: RemoteProtocolError: too many of them, or not whole ones.
    """
    if len(packed) % PACKED_BYTES or len(packed) > most * PACKED_BYTES:
        raise RemoteProtocolError(f"an answer of {len(packed)} bytes is no list of contacts")
    return (packed[at : at + PACKED_BYTES] for at in range(0, len(packed), PACKED_BYTES))


def prefix_of(packed: bytes) -> bytes:
    """Return the /24 or /48 of a packed contact, as bytes that no other prefix has."""
    if packed.startswith(_MAPPED, 32):
        return packed[32 : 32 + _IPV4_PREFIX_BYTES]
    return packed[32 : 32 + _IPV6_PREFIX_BYTES]


def block_of(packed: bytes) -> bytes:
    """Return the /24 or /32 of a packed contact: what one holder of IPv6 space can vary is out."""
    if packed.startswith(_MAPPED, 32):
        return packed[32 : 32 + _IPV4_PREFIX_BYTES]
    return packed[32 : 32 + _IPV6_BLOCK_BYTES]


def endpoint_prefix(endpoint: tuple[str, int]) -> bytes:
    """Return the /24 or /48 of an endpoint."""
    return prefix_of(UNKNOWN_ID + pack_endpoint(endpoint))


Net = IPv4Network | IPv6Network

# First octets of IPv4 that name no host of the Internet, and those where more must be looked at.
_NEVER, _LOOK = 1, 2
_FIRST_OCTET: Final = bytes(
    _NEVER
    if octet in (0, 10, 127) or octet >= 224
    else _LOOK * (octet in (100, 169, 172, 192, 198))
    for octet in range(256)
)
_IPV4_INSIDE: Final = tuple(
    (int(net.network_address) >> 16, int(net.netmask) >> 16)
    for net in map(
        IPv4Network,
        ("100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15"),
    )
)
_IPV4_PROTOCOL: Final = b"\xc0\0\0"  # 192.0.0.0/24


def is_global(address: bytes) -> bool:
    """Tell whether 16 bytes of address may be one of the Internet's hosts.

    Not so: private, shared (the overlay's IPv4), loopback, link-local, unique local (the
    overlay's IPv6), multicast, reserved, stand-ins of circuits, and IPv6 that wraps IPv4.
    """
    if address.startswith(_MAPPED):
        kind = _FIRST_OCTET[address[12]]
        if kind == _LOOK:
            head = address[12] << 8 | address[13]
            return not (
                any(head & mask == net for net, mask in _IPV4_INSIDE)
                or address[12:15] == _IPV4_PROTOCOL
            )
        return kind != _NEVER
    # 2000::/3 is all that was ever given out; in it, Teredo and 6to4 wrap an IPv4 address.
    return (
        address[0] & 0xE0 == 0x20
        and not address.startswith(b"\x20\x01\0\0")
        and not address.startswith(b"\x20\x02")
    )


@frozen
class Horizon:
    """Which addresses of hearsay may be asked at all.

    Global ones of the *versions* of IP that this host has, and those of *near*: the underlay
    prefixes that this host is in itself, or that its operator named.  Told by a peer, a near
    address counts only if the teller is near too, or anybody on the Internet could make us knock at
    our neighbours' doors.
    """

    near: tuple[Net, ...] = ()
    never: tuple[Net, ...] = ()
    """Prefixes of the overlay: whatever *near* says, nothing there is asked."""
    versions: frozenset[int] = VERSIONS
    """What has no way there is a question that runs into its timeout, one of the few under way."""
    _near: tuple[tuple[int, int], ...] = field(init=False, repr=False)
    _never: tuple[tuple[int, int], ...] = field(init=False, repr=False)

    @_near.default
    def _masks_of_near(self) -> tuple[tuple[int, int], ...]:
        return _masks(self.near)

    @_never.default
    def _masks_of_never(self) -> tuple[tuple[int, int], ...]:
        return _masks(self.never)

    def is_near(self, address: bytes) -> bool:
        """Tell whether 16 bytes of address lie in a prefix of ours."""
        return bool(self._near) and _inside(address, self._near)

    def allows(self, packed: bytes, teller: bytes | None = None) -> bool:
        """Tell whether a packed contact may be asked.

        *teller*: the 16 bytes of address of who told of it; None: this host found it itself.
        """
        if packed[48:50] == b"\0\0":
            return False
        address = packed[32:48]
        if self._never and _inside(address, self._never):
            return False
        if is_global(address):
            return (4 if address.startswith(_MAPPED) else 6) in self.versions
        return self.is_near(address) and (teller is None or self.is_near(teller))

    def group_of(self, packed: bytes) -> bytes:
        """Return what counts as one holder of addresses: a prefix, or a near address itself."""
        if self._near and self.is_near(packed[32:48]):
            return packed[ADDRESS]
        return prefix_of(packed)


def _masks(nets: Iterable[Net]) -> tuple[tuple[int, int], ...]:
    masks = []
    for net in nets:
        base, mask = int(net.network_address), int(net.netmask)
        if isinstance(net, IPv4Network):
            base, mask = base | 0xFFFF << 32, mask | (2**96 - 1) << 32
        masks.append((base, mask))
    return tuple(masks)


def _inside(address: bytes, masks: tuple[tuple[int, int], ...]) -> bool:
    value = int.from_bytes(address, "big")
    return any(value & mask == base for base, mask in masks)
