"""DNS seeds: names that anybody may run, whose TXT records say where nodes of the commons are.

```
seed.example.  TXT  "veilnet=v1 192.0.2.7:41000 [2001:db8::7]:41000 node.example:41000"
                     at most 16 places a seed; a name among them costs one more lookup, at most 4
```
A seed is believed about nothing: whoever answers at an address has to prove a key, as everywhere.
What several seeds of different owners say comes first and is counted (`Found.sources`); what one
alone says comes HINTS_AFTER_S later, as a hint.  Nothing is asked unless the operator named seeds:
whoever sees the question learns that a VeilNet node is here.
Source: RFC 1035 section 3.3.14 (TXT), RFC 1464 (attributes in it).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import structlog
import trio

from veilnet.config import parse_endpoint
from veilnet.errors import ConfigError, RemoteProtocolError
from veilnet.networks.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dns.asyncresolver import Resolver

    from veilnet.daemon.ladder.ladder import Rung
    from veilnet.units import NetworkId

MARK: Final = "veilnet=v1"
PLACES_MAX: Final = 16
NAMES_MAX: Final = 4
ADDRESSES_MAX: Final = 4
RECORDS_MAX: Final = 8
SEEDS_MAX: Final = 8
QUERY_S: Final = 5.0
HINTS_AFTER_S: Final = 2.0

log = structlog.get_logger("veilnet.ladder.seeds")


def parse(text: str) -> list[tuple[str, int]]:
    """Return the places that one TXT record names, none if it is no record of ours.

    A word that is no place is passed over: a later version may have other words.
    """
    words = text.split()
    if not words or words[0] != MARK:
        return []
    places: list[tuple[str, int]] = []
    for word in words[1:]:
        try:
            places.append(parse_endpoint(word))
        except ConfigError:
            continue
    return places[:PLACES_MAX]


def owner(seed: str) -> str:
    """Return who is taken to run *seed*: its last two labels.

    Where a registry sells names at the third level two owners count as one, which is the safe side.
    """
    return ".".join(seed.lower().rstrip(".").split(".")[-2:])


def resolver(servers: Sequence[str] = ()) -> Resolver:
    """Return a resolver that asks *servers* (ADDRESS:PORT), or the host's own.

    Raises: ConfigError: the host names none.
    """
    import dns.asyncresolver
    import dns.exception
    from dns.nameserver import Do53Nameserver

    try:
        made = dns.asyncresolver.Resolver(configure=not servers)
    except dns.exception.DNSException as error:
        raise ConfigError(
            f"this host has no DNS servers: {error}", hint="Write one into /etc/resolv.conf."
        ) from error
    if servers:
        made.nameservers = [Do53Nameserver(*parse_endpoint(text)) for text in servers]
    return made


class Agreement:
    """Which endpoints are named by whom."""

    def __init__(self) -> None:
        self._owners: dict[Endpoint, set[str]] = {}

    def add(self, endpoint: Endpoint, seed: str) -> int:
        """Note that *seed* names *endpoint*; return how many owners do now."""
        owners = self._owners.setdefault(endpoint, set())
        owners.add(owner(seed))
        return len(owners)

    def hints(self) -> list[Endpoint]:
        """Return what one owner alone names."""
        return [endpoint for endpoint, owners in self._owners.items() if len(owners) == 1]


class Seeds:
    """The step: asks every seed at once."""

    name: Final = "seeds"
    standing: Final = False
    limit_s: Final = 30.0
    remedy: Final = "Name seeds that are up with dns_seeds in config.toml."

    def __init__(
        self,
        seeds: Sequence[str],
        network_id: NetworkId,
        *,
        resolver: Callable[[], Resolver],
    ) -> None:
        self._seeds = tuple(seeds)[:SEEDS_MAX]
        self._network_id, self._resolver = network_id, resolver

    async def climb(self, rung: Rung) -> None:
        """Ask, pass on what several agree on at once, and the rest a little later."""
        made = self._resolver()
        agreement, faults, asked = Agreement(), list[str](), trio.Event()
        hinted = False

        async def ask(seed: str) -> None:
            try:
                for endpoint in await _places(made, seed):
                    sources = agreement.add(endpoint, seed)
                    if sources > 1 or hinted:
                        await rung.found(endpoint, network_id=self._network_id, sources=sources)
            except RemoteProtocolError as error:
                faults.append(error.message)

        async def hint() -> None:
            nonlocal hinted
            with trio.move_on_after(HINTS_AFTER_S):
                await asked.wait()
            hinted = True
            for endpoint in agreement.hints():
                await rung.found(endpoint, network_id=self._network_id)

        async with trio.open_nursery() as hinting:
            hinting.start_soon(hint)
            async with trio.open_nursery() as asking:
                for seed in self._seeds:
                    asking.start_soon(ask, seed)
            asked.set()
        if len(faults) == len(self._seeds):
            rung.fail("; ".join(faults))
        elif faults:
            rung.well(f"without an answer: {'; '.join(faults)}")


async def _places(made: Resolver, seed: str) -> list[Endpoint]:
    """Return the endpoints that *seed* names.

    Raises: RemoteProtocolError: it did not answer, or with nothing of ours.
    """
    places: list[tuple[str, int]] = []
    for text in await _texts(made, seed):
        places += parse(text)
    found: list[Endpoint] = []
    names = 0
    for host, port in places[:PLACES_MAX]:
        hosts = [host]
        if not _is_literal(host):
            names += 1
            hosts = await _addresses(made, host) if names <= NAMES_MAX else []
        for literal in hosts:
            try:
                found.append(Endpoint.of(literal, port, blame=RemoteProtocolError))
            except RemoteProtocolError as error:
                log.debug("place passed over", seed=seed, reason=error.message)
    if not found:
        raise RemoteProtocolError(f"{seed} names no place: it has no record {MARK} ADDRESS:PORT")
    return list(dict.fromkeys(found))


async def _texts(made: Resolver, seed: str) -> list[str]:
    import dns.asyncbackend
    import dns.exception

    try:
        answer = await made.resolve(
            seed, "TXT", lifetime=QUERY_S, backend=dns.asyncbackend.get_backend("trio")
        )
    except (dns.exception.DNSException, OSError, ValueError) as error:
        raise RemoteProtocolError(f"{seed}: {str(error) or type(error).__name__}") from error
    records = list(answer)[:RECORDS_MAX]
    return [b"".join(record.strings).decode("ascii", "replace") for record in records]


async def _addresses(made: Resolver, host: str) -> list[str]:
    import dns.asyncbackend
    import dns.exception

    backend = dns.asyncbackend.get_backend("trio")
    found: list[str] = []
    for kind in ("A", "AAAA"):
        try:
            answer = await made.resolve(host, kind, lifetime=QUERY_S, backend=backend)
        except (dns.exception.DNSException, OSError, ValueError) as error:
            log.debug("name of a seed passed over", name=host, reason=str(error))
            continue
        found += [str(record.address) for record in answer]
    return found[:ADDRESSES_MAX]


def _is_literal(host: str) -> bool:
    return ":" in host or re.fullmatch(r"[0-9.]+", host) is not None
