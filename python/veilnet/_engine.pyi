"""The Rust engine's handle, as Python sees it.

Every method is short, releases the GIL while it waits for the data thread and raises
`veilnet.errors.BrokenEngineError` if that thread has died, `ClosedError` after `close()`.
Endpoints are `(host, port)` with a literal IPv4 or IPv6 address. Session ids (`sid`) are the
32-bit receive index of this side.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, TypeAlias, final

Endpoint: TypeAlias = tuple[str, int]

LABELS: Final[dict[str, bytes]]
"""The label table of the key schedule (docs/protocol.md), shared by both languages."""

CLEARTEXT: Final[bool]
"""True only in the test build without encryption (Cargo feature `cleartext`)."""

@final
class KeySchedule:
    """X25519, transcript and keys of one session; opaque: no secret ever leaves it.

    Raises: `LocalProtocolError` when called out of order, `RemoteProtocolError` when what the
    peer sent is wrong (length, all-zero X25519, confirmation MAC).
    Source: docs/protocol.md.
    """

    @staticmethod
    def initiate(
        *, suite: int, mode: int, network_id: bytes, secret: bytes, responder_id: bytes, ek: bytes
    ) -> KeySchedule: ...
    @staticmethod
    def respond(
        init: InitReceived,
        *,
        network_id: bytes,
        secret: bytes,
        responder_id: bytes,
        ct: bytes,
        ss: bytes,
    ) -> KeySchedule: ...
    @property
    def sid(self) -> int: ...
    @property
    def com(self) -> bytes:
        """The initiator's commitment to its INIT, 32 B: what cookies are for."""
    @property
    def th2(self) -> bytes:
        """Signed by the responder, followed by its peer id."""
    @property
    def generation(self) -> int: ...
    @property
    def fingerprint(self) -> bytes:
        """A public hash of the exporter: equal at both ends exactly when the sessions agree."""
    def export(self, label: bytes, *, context: bytes = b"", length: int = 32) -> bytes:
        """An exported secret of the session, at most 1,024 bytes."""
    def next_psk(self) -> tuple[bytes, bytes]:
        """`(name, psk)` for the next full handshake with this peer; the name is public."""
    def absorb_response(self, message: bytes) -> bytes:
        """Mix e2 (the plaintext of RESP) into the transcript and return th3."""
    # Generations, over control. OFFER = generation u64 || X 32 || ek;
    # ANSWER = generation u64 || Y 32 || ct || mac 32; CONFIRM = mac 32.
    def generation_offer(self, ek: bytes) -> bytes: ...
    def generation_answer(self, offer: bytes, ct: bytes, ss: bytes) -> bytes: ...
    def generation_confirm(self, answer: bytes, ss: bytes) -> bytes: ...
    def generation_finish(self, confirm: bytes) -> None: ...
    def generation_abort(self) -> None: ...

@final
class SeededSchedules:
    """Makes schedules from one seed, for simulations; stands where `KeySchedule` is taken."""

    def __init__(self, seed: int) -> None: ...
    def initiate(
        self,
        *,
        suite: int,
        mode: int,
        network_id: bytes,
        secret: bytes,
        responder_id: bytes,
        ek: bytes,
    ) -> KeySchedule: ...
    def respond(
        self,
        init: InitReceived,
        *,
        network_id: bytes,
        secret: bytes,
        responder_id: bytes,
        ct: bytes,
        ss: bytes,
    ) -> KeySchedule: ...

def door_key(network_secret: bytes, responder_id: bytes) -> bytes:
    """K_door of a member: what an initiator must hold to get any reply from it."""

# --- events -----------------------------------------------------------------------------------

@final
class InitReceived:
    """A whole, cookie-proven INIT: the first thing of a stranger that Python sees."""

    door: int
    source: Endpoint
    mode: int
    suite: int
    sid: int
    """The initiator's session id."""
    com: bytes
    holder: bytes | None
    """Whom the ticket was given to that it showed; None: it showed a cookie."""
    ek: bytes

@final
class CandidateReceived:
    """A RESP key part; answer with `Engine.candidate` once decapsulated."""

    sid: int
    candidate: int
    ct: bytes
    source: Endpoint

@final
class HandshakeReceived:
    """e2 (at the initiator) or e3 (at the responder): opened, but not yet verified.

    Empty at the initiator of a lookup: its session is there, and the peer holds its keys.
    """

    sid: int
    message: bytes
    source: Endpoint

@final
class SessionConfirmed:
    """The peer proved that it holds the session keys (ACK at the initiator)."""

    sid: int

@final
class ControlReceived:
    """One sealed control datagram's plaintext (an ARQ chunk, at most 1,100 B)."""

    sid: int
    data: bytes

@final
class PacketWanted:
    """A local packet has no session yet; it waits, at most 5 s (32 packets, 64 KB)."""

    destination: str

@final
class ProbeAnswered:
    sid: int
    path: int
    rtt_s: float

@final
class PathChanged:
    """A path's state changed, seen by the engine; shares were moved already."""

    sid: int
    path: int
    state: str
    """As `PathStats.state`."""
    cause: Literal["silent", "lossy", "slow", "heard", "closed"]
    """Why: "closed" is the end of the link or circuit that it went over."""
    moved_to: int | None
    """The path that took the share over, if one did."""

@final
class CircuitSpent:
    """A circuit's byte limit is used up: nothing more is forwarded."""

    link: int
    label: int

@final
class CarrierClosed:
    """A carrier's connection has ended: its stand-in leads nowhere, its paths are dead."""

    endpoint: Endpoint

@final
class PeerSilent:
    """Sent for 1.5 s, heard nothing: the session may be gone at the peer."""

    sid: int
    silent_s: float

@final
class SourceMoved:
    """The peer's authenticated traffic now comes from another, challenged endpoint."""

    sid: int
    endpoint: Endpoint

@final
class KeysStale:
    """A chain is near its datagram limit and no step could be acknowledged."""

    sid: int

@final
class EventsLost:
    count: int

@final
class EngineFailed:
    """The data thread died, and later calls raise BrokenEngineError; or its TUN device is gone."""

    reason: str

Event: TypeAlias = (
    InitReceived
    | CandidateReceived
    | HandshakeReceived
    | SessionConfirmed
    | ControlReceived
    | PacketWanted
    | ProbeAnswered
    | PathChanged
    | CircuitSpent
    | CarrierClosed
    | PeerSilent
    | SourceMoved
    | KeysStale
    | EventsLost
    | EngineFailed
)

@final
class SessionStats:
    """One session's counters; times are seconds since the event, None before the first."""

    sid: int
    remote_sid: int
    endpoint: Endpoint
    generation: int
    step_tx: int
    step_rx: int
    lookup: bool
    """Anonymous, for control alone; at most 1,024, and none older than two minutes."""
    confirmed: bool
    """The peer is known to hold the keys; who never uses a lookup session loses it after 10 s."""
    tx_packets: int
    rx_packets: int
    tx_bytes: int
    rx_bytes: int
    rejected: int
    """Datagrams that were authentic but dropped (replay, inner source or destination)."""
    rtt_s: float | None
    heard_s: float | None
    sent_s: float | None
    data_s: float | None
    """Since the last inner packet in either direction: what idle close looks at."""
    age_s: float
    rekeyed_s: float
    mtu_bytes: int
    """Largest UDP payload the path is known to carry (DPLPMTUD)."""

@final
class PathStats:
    """One path of one session.  Counters only grow: take differences.

    What a peer received is what its authenticated reports say.
    """

    sid: int
    path: int
    endpoint: Endpoint
    """Real, or that of a circuit: see `circuit_of`."""
    state: str
    """"probing" (nothing came back yet), "alive", "browned" (lossy or slow) or "dead"."""
    share: float
    standby: bool
    rtt_s: float | None
    rtt_min_s: float | None
    jitter_s: float
    loss: float
    """Part of the datagrams lost, over the last second of reports."""
    queue_s: float
    """What the round trip is above its minimum."""
    tx_datagrams: int
    tx_bytes: int
    rx_datagrams: int
    rx_bytes: int
    judged_datagrams: int
    """Sent and covered by a report, received or not."""
    lost_datagrams: int
    delivered_bytes: int
    owed_datagrams: int
    """With inner packets, covered by no report yet."""
    probes_sent: int
    probes_answered: int
    heard_s: float | None
    carried_s: float | None
    """Since an inner packet of the peer came over it, or a relay frame."""
    leaves: tuple[str | None, int]
    """The address of this host that it leaves from (None: the kernel's choice), and by which of the
    node's ports: an index, 0 is the main one."""
    mtu_bytes: int

@final
class CircuitStats:
    """One circuit that this node forwards, both directions together."""

    a: tuple[int, int]
    """(link, label) of one side."""
    b: tuple[int, int]
    datagrams: int
    bytes: int
    dropped: int
    busy: bool
    """Whether the node's own rate limit dropped something of it within the last second."""

@final
class EngineStats:
    """The engine's own counters."""

    rx_datagrams: int
    tx_datagrams: int
    rx_unknown: int
    tun_reads: int
    tun_writes: int
    rx_calls: int
    tx_calls: int
    vnet_hdr: bool
    udp_gso: bool
    udp_gro: bool
    wakeups: int
    relayed_datagrams: int
    relayed_bytes: int
    relay_dropped: int

def circuit_endpoint(link: int, label: int) -> Endpoint:
    """The endpoint that stands for the circuit with that label on that link."""

def is_carrier(endpoint: Endpoint) -> bool:
    """Whether *endpoint* stands for a carrier: `[100:1:RRRR:RRRR::NNNN:NNNN]:1`.

    R is the same for connections with one /24 or /64, so that budgets by prefix hold for them
    together; it means nothing outside this run of the program.
    """

def circuit_of(endpoint: Endpoint) -> tuple[int, int] | None:
    """`(link, label)` if *endpoint* stands for a circuit; no other has such an address."""

@final
class Carriers:
    """Connections over TLS 1.3 over TCP that carry datagrams, and the one thread that moves them.

    The certificates prove nothing: VNH1 inside does.  At most 256, of callers at most 32 from one
    /24 or /64; each has bounded queues and loses what does not fit.
    """

    @staticmethod
    def open() -> Carriers: ...
    def listen(self, port: int) -> int:
        """Take connections on TCP *port* (0: a free one) of every address; return the port.

        Raises: ConfigError: in use; PrivilegeError.
        """
    def connect(self, host: str, port: int, timeout_s: float) -> int:
        """Connect, blocking, and return the descriptor for `Engine.attach`.

        Raises: PeerUnreachable, ClosedError.
        """
    def fileno(self) -> int:
        """The eventfd that becomes readable when `drain` has something."""
    def drain(self) -> list[tuple[int, Endpoint]]:
        """Who called: a descriptor for `Engine.attach`, now the caller's, and the real address."""
    def count(self) -> int: ...
    def close(self) -> None: ...

@final
class Engine:
    """The data plane of one node: one UDP socket, one TUN device, one data thread."""

    @staticmethod
    def open(
        *,
        listen_port: int = 0,
        tun_name: str | None = None,
        mtu_bytes: int = 1380,
        vnet_hdr: bool = True,
        udp_gso: bool = True,
        udp_gro: bool = True,
        step_datagrams: int = ...,
        step_age_s: float = 240.0,
    ) -> Engine:
        """Open the socket and, if *tun_name* is given, create the TUN device (down, no address).

        *listen_port* 0 picks a free one in 10000-60000.
        Raises: PrivilegeError (no CAP_NET_ADMIN or no /dev/net/tun), ConfigError (port in use).
        """
    @property
    def port(self) -> int: ...
    @property
    def tun_name(self) -> str | None: ...
    def fileno(self) -> int:
        """The eventfd that becomes readable when `drain` has something."""
    def drain(self) -> list[Event]: ...
    def close(self) -> None: ...
    def stats(self) -> EngineStats: ...
    def sessions(self) -> list[SessionStats]: ...

    # first contact (docs/protocol.md)
    #
    # A lookup session: the initiator's schedule has mode 2 and 32 zero bytes for the responder's
    # id, the door is the public one.  hello -> CandidateReceived -> candidate -> HandshakeReceived
    # with an empty message: the session is there.  The responder's is there with `respond`, whose
    # message is empty.  No authenticate, no accept.  Only send_control and close_session work on
    # it; everything else raises LocalProtocolError, and nothing but control is received.
    def add_door(self, key: bytes, *, replay_set: bool = True) -> int:
        """Open a door; *replay_set* is False for the commons, whose key is public.

        A public door has rates of its own and half of the places, so that no stranger there
        takes a member's.
        """
    def remove_door(self, door: int) -> None: ...
    def seen_inits(self) -> bytes:
        """The set of INITs already answered, to be persisted over a restart."""
    def load_seen_inits(self, data: bytes) -> None: ...
    def hello(
        self,
        schedule: KeySchedule,
        *,
        door_key: bytes,
        endpoint: Endpoint,
        bare_hint: bool = False,
        ticket: tuple[bytes, bytes] | None = None,
        cookie: bytes | None = None,
    ) -> bool:
        """Send HELLO; call again to retransmit or to race another endpoint (at most 8).

        With a *ticket* and its key (schedule in mode 3), or at a circuit with the *cookie* (16 B)
        that came when it opened, INIT is sent at once.
        False when a byte budget towards the unproven endpoint forbade it for now.
        """
    def cookie(self, endpoint: Endpoint, com: bytes) -> bytes:
        """Return what RETRY would bring over a circuit to who sends the INIT of *com* (32 B).

        Raises: LocalProtocolError: *endpoint* is no circuit.
        """
    def issue_ticket(self, sid: int, *, holder: bytes, life_s: float) -> tuple[bytes, bytes]:
        """Return a ticket (96 B) and its key (32 B) for the peer of a session, good from the
        address that its direct path has now; *holder* (32 B) comes back in `InitReceived.holder`.

        Raises: LocalProtocolError: the peer has no direct path; ClosedError.
        """
    def candidate(self, sid: int, candidate: int, ss: bytes) -> None:
        """Give the KEM secret of a key part.

        Raises: RemoteProtocolError: it cannot be the peer's (of a lookup also: its tag is wrong).
        """
    def authenticate(self, sid: int, message: bytes, *, psk: bytes | None = None) -> None:
        """Initiator: send AUTH (e3); the session exists from here, and may carry data: the peer
        keeps that until it has verified us (modes 0 and 3).  Anything authentic confirms it.
        """
    def respond(self, schedule: KeySchedule, init: InitReceived, message: bytes) -> None:
        """Responder: send RESP with e2; retransmits are answered by the engine itself.

        A lookup's *message* is empty, and its session exists from here, unconfirmed until the
        first control datagram came.
        """
    def dismiss(self, init: InitReceived) -> None:
        """Forget an INIT that will not be answered, which frees its place."""
    def reject(self, sid: int) -> None:
        """Initiator: the RESP that opened does not verify; go on with other key parts, if any."""
    def resend(self, sid: int) -> None:
        """Send AUTH again, sealed anew; nothing where the ACK has come."""
    def accept(self, sid: int, *, psk: bytes | None = None) -> None:
        """Responder: AUTH was verified; the session exists, ACK is sent."""
    def abandon(self, sid: int) -> None: ...

    # sessions
    def send_control(self, sid: int, data: bytes) -> None:
        """Seal and send one control datagram (at most 1,100 B), unreliable."""
    def close_session(self, sid: int) -> None: ...
    def probe(self, sid: int, path: int | None = None) -> None:
        """Send a sealed probe now; `ProbeAnswered` follows if the peer answers.

        *path* None is the path that carries most.
        """
    def sources(self) -> list[str]:
        """Return the addresses of this host that peers called, and that their paths leave from."""
    def underlay_changed(
        self, *, elsewhere: bool, keep: list[IPv4Address | IPv6Address]
    ) -> list[tuple[int, bool]]:
        """Look up anew from which address of this host each direct path leaves.

        Where that is another one, what leaves is masked with the peer's return key, and a probe
        makes the peer ask back there.  Paths stay at those of `sources` that are in *keep*: they
        still lead out.  Returns the sids of these sessions, and whether the peer can
        know us: it has given us no return key yet, or a stranger never will.  *elsewhere*: this
        host's usual ways out are others, so answers leave from where the kernel chooses.
        """
    def set_endpoint(self, sid: int, endpoint: Endpoint) -> None: ...
    def install_generation(self, sid: int, schedule: KeySchedule, *, send: bool) -> None:
        """Receive under the schedule's newest generation; *send* moves sending to it at once,
        else sending moves with the peer's first authentic datagram under it.
        """

    # paths
    def paths(self) -> list[PathStats]: ...
    def open_path(self, sid: int, path: int, endpoint: Endpoint) -> None:
        """Open another path of a session, unproven until a probe on it is answered.

        *path*: even ids are the initiator's, odd ones the responder's, 1-254, never one that was
        used before in this generation; at most 8 are open.  Path 0 is the handshake's own.
        Raises: LocalProtocolError.
        """
    def close_path(self, sid: int, path: int) -> None: ...
    def punch(
        self, sid: int, path: int, endpoints: Sequence[Endpoint], *, ttl: int | None = None
    ) -> int:
        """Send a probe of a direct path that does not carry to each of at most 1,024 addresses.

        Each goes out with that TTL or hop limit (None: the host's).  The first authentic answer
        makes its source the path's endpoint and the path alive; a path that was alive before moves
        by the challenge of every move.  The peer's end is found in the same way when it is asked,
        so one side's punch proves both.  Before the peer's return key is known only its answers
        from addresses that are the path's endpoint already are recognised.
        Returns how many left: none to an address whose byte budget (one with HELLO's) is used up,
        none at all while the path is alive.
        Raises: LocalProtocolError: no such path, a circuit's, an unconfirmed session.
        """
    def spread(self, sid: int, path: int, endpoint: Endpoint, *, sockets: int) -> None:
        """Send a probe of that path from 1 to 256 further sockets: the hard side of a birthday.

        The socket on which something authentic comes becomes the path's, and stays while it is (at
        most eight do); the others are closed after 12 s.  Nothing happens while the path is alive.
        The probes share the byte budget of their one target, so the first 16 KiB go out.
        Raises: LocalProtocolError: as `punch`, or 256 sockets are in use already.
        """
    def set_shares(
        self, sid: int, shares: Sequence[tuple[int, float]], *, standby: int | None = None
    ) -> None:
        """Split what is sent over at most 3 open paths; name the one that takes over.

        Raises: LocalProtocolError.
        """

    # carriers
    def attach(self, fd: int, *, remote: str | None = None) -> Endpoint:
        """Take over one end of a SOCK_SEQPACKET pair; the answer stands for it as an endpoint.

        Each message is a run of records, length u16 || datagram (1 to 1,500 B).  *remote* is the
        address that the connection behind it is with: budgets count by its prefix.  At most 256.
        The descriptor is the engine's from here on, whether or not this succeeds.
        Raises: LocalProtocolError: another kind of descriptor, or too many.
        """
    def detach(self, endpoint: Endpoint) -> None:
        """Let a carrier go, without an event; its paths are dead."""

    # circuits at their ends
    def join_circuit(self, link: int, label: int) -> Endpoint:
        """Take frames with that label on that link as ours; the answer is where to send."""
    def leave_circuit(self, endpoint: Endpoint) -> None: ...
    def rebind_link(self, old: int, new: int) -> None:
        """Move everything that goes over the link *old* to the session that replaces it."""

    # circuits at a relay
    def add_circuit(
        self,
        a: tuple[int, int],
        b: tuple[int, int],
        *,
        rate_bps: int,
        burst_bytes: int,
        limit_bytes: int,
    ) -> None:
        """Forward between two (link, label), both ways, at most *limit_bytes* in all.

        Raises: LocalProtocolError: a label in use, no such link, the same link twice.
        """
    def limit_circuit(
        self, a: tuple[int, int], *, rate_bps: int | None = None, limit_bytes: int | None = None
    ) -> None:
        """Change a circuit's rate or its limit over its whole life; None leaves it."""
    def remove_circuit(self, a: tuple[int, int]) -> None: ...
    def circuits(self) -> list[CircuitStats]: ...
    def set_relay_rate(self, rate_bps: int | None) -> None:
        """Cap what all circuits together may forward; None is no cap."""

    # inner addresses
    def set_local(self, prefixes: Sequence[str]) -> None:
        """Prefixes that are ours: the only inner destinations delivered."""
    def set_wanted(self, prefixes: Sequence[str]) -> None:
        """Prefixes in which an unrouted destination raises PacketWanted."""
    def assign(self, sid: int, prefixes: Sequence[str]) -> None:
        """Inner prefixes of the peer: its only valid sources, and routed to this session.
        Replaces the session's earlier list and takes prefixes over from other sessions.
        """
    def refuse(self, destination: str) -> None:
        """Drop packets waiting for *destination* and answer each with ICMP unreachable."""

    # mist
    def set_return_keys(self, keys: Sequence[bytes]) -> None:
        """This node's return keys, newest first (at most two per network, 32 B each)."""
    def set_peer_return_key(self, sid: int, key: bytes) -> None: ...

# --- sans-I/O twin of the gate, for simulations and property tests ------------------------------

@final
class Established:
    local_sid: int
    remote_sid: int
    endpoint: Endpoint
    initiator: bool
    fingerprint: bytes
    """A public hash of the exporter: equal at both ends exactly when the sessions agree."""

@final
class Gate:
    """First contact without sockets: the very code that the engine runs."""

    def __init__(self, seed: int) -> None: ...
    def receive(self, datagram: bytes, source: Endpoint, now_ns: int) -> bool: ...
    def poll(self) -> list[tuple[Literal["send"], Endpoint, bytes] | Event]: ...
    def expire(self, now_ns: int) -> None: ...
    def add_door(self, key: bytes, *, replay_set: bool = True) -> int: ...
    def remove_door(self, door: int) -> None: ...
    def seen_inits(self) -> bytes: ...
    def load_seen_inits(self, data: bytes) -> None: ...
    def hello(
        self,
        schedule: KeySchedule,
        *,
        door_key: bytes,
        endpoint: Endpoint,
        bare_hint: bool = False,
        ticket: tuple[bytes, bytes] | None = None,
        cookie: bytes | None = None,
    ) -> bool: ...
    def cookie(self, endpoint: Endpoint, com: bytes) -> bytes: ...
    def issue_ticket(self, host: str, *, holder: bytes, life_s: float) -> tuple[bytes, bytes]: ...
    def candidate(self, sid: int, candidate: int, ss: bytes) -> bool: ...
    def authenticate(
        self, sid: int, message: bytes, *, psk: bytes | None = None
    ) -> Established: ...
    def respond(
        self, schedule: KeySchedule, init: InitReceived, message: bytes
    ) -> Established | None:
        """As the engine's; of a lookup, the facts of its session."""
    def established(self, sid: int) -> Established | None:
        """The facts of the session of that id: the way to those of a lookup's initiator."""
    def dismiss(self, init: InitReceived) -> None: ...
    def reject(self, sid: int) -> None: ...
    def resend(self, sid: int) -> None: ...
    def accept(self, sid: int, *, psk: bytes | None = None) -> Established: ...
    def abandon(self, sid: int) -> None: ...

@final
class Beacon:
    """A client of BitTorrent's Mainline DHT (BEP 5), IPv4 only; blocks: call it in a worker thread.

    Raises: `TimedOut`: no node answered; `ConfigError`: no socket, or no first node; `ClosedError`.
    """

    @staticmethod
    def open(*, bootstrap: Sequence[str], bind: str | None = None) -> Beacon:
        """Know these first nodes (`HOST:PORT`; none: the well-known ones), looked up here."""
    def peers(self, infohash: bytes, *, most: int, timeout_s: float) -> list[Endpoint]:
        """Who announced themselves under the 20 bytes; hearsay."""
    def announce(self, infohash: bytes, *, port: int, timeout_s: float) -> None: ...
    def nodes(self, *, timeout_s: float) -> list[str]:
        """Nodes that are known by now, for the next `open`."""
    def close(self) -> None: ...

@final
class BeaconTestnet:
    """A Mainline DHT of `count` nodes on loopback, for tests."""

    def __init__(self, count: int) -> None: ...
    @property
    def bootstrap(self) -> list[str]: ...
    def close(self) -> None: ...

@final
class PortMapping:
    """A UDP port of the gateway that leads here; blocks: call it in a worker thread.

    It stays until `remove` or the end of its life; the object's end changes nothing.
    Raises: `TimedOut`: no gateway answered; `PeerRefused`: it said no; `ConfigError`: no network.
    """

    @staticmethod
    def by_pcp(
        gateway: str, *, client: str, port: int, life_s: int, timeout_s: float
    ) -> PortMapping:
        """Ask in PCP, and in NAT-PMP if the gateway knows no PCP."""
    @staticmethod
    def by_upnp(
        *,
        client: str,
        port: int,
        life_s: int,
        timeout_s: float,
        search: Endpoint | None = None,
    ) -> PortMapping:
        """Look for a gateway by SSDP (at *search* instead of the group), and ask it."""
    @property
    def external(self) -> Endpoint: ...
    @property
    def life_s(self) -> int:
        """From its opening or last renewal; 0: until it is removed."""
    @property
    def protocol(self) -> str: ...
    def renew(self) -> None: ...
    def remove(self) -> None: ...
