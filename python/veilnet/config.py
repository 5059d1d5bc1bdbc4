"""The one configuration file, ``config.toml`` in the state folder: keys, defaults, checks.

A flag of ``veilnet up`` overrides the file for that run; nothing writes the file but its owner.
"""

from __future__ import annotations

import ipaddress
import json
import re
import tomllib
from typing import TYPE_CHECKING, Any, Final

import attrs

from veilnet.errors import ConfigError, PrivilegeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

FILE_NAME: Final = "config.toml"
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
RELAY_FOR: Final = ("own", "all", "off")
TCP_LISTEN: Final = ("auto", "on", "off")
KEM_BACKENDS: Final = ("auto", "liboqs", "cryptography")
PATH_POLICIES: Final = ("veil", "greedy", "linucb", "random", "direct", "dts", "exp3", "via")
"""`paths.policy_names`, which would bring numpy in."""
LAN_FOR: Final = ("all", "own", "off")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def parse_endpoint(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT`` or ``[IPv6]:PORT``.

    Raises: ConfigError.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    try:
        number = int(port) if port.isascii() and port.isdigit() else 0
        valid = (
            bool(colon) and 0 < number < 65536 and bool(_is_address(host) or _HOST.fullmatch(host))
        )
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(
            f"{text!r} is no endpoint", hint="Write HOST:PORT, for example 203.0.113.7:41000."
        )
    return host, number


def format_endpoint(endpoint: tuple[str, int]) -> str:
    """Return ``HOST:PORT``, with brackets around an IPv6 address."""
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _check(test: Callable[[Any], bool], wanted: str) -> Any:  # noqa: ANN401 - attrs' own type
    def validate(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not test(value):
            raise ConfigError(f"{attribute.name} = {value!r} cannot be used: it must be {wanted}")

    return validate


def _between(low: float, high: float, unit: str) -> Any:  # noqa: ANN401
    return _check(
        lambda value: (
            not isinstance(value, bool) and isinstance(value, (int, float)) and low <= value <= high
        ),
        f"{low:g} to {high:g}{unit}",
    )


def _whole(low: int, high: int, unit: str) -> Any:  # noqa: ANN401
    return _check(
        lambda value: (
            not isinstance(value, bool) and isinstance(value, int) and low <= value <= high
        ),
        f"a whole number of {low} to {high}{unit}",
    )


def _endpoints_of(key: str) -> Callable[[object], tuple[str, ...]]:
    def convert(value: object) -> tuple[str, ...]:
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise ConfigError(f"{key} = {value!r} cannot be used: it must be a list of HOST:PORT")
        return tuple(format_endpoint(parse_endpoint(str(item))) for item in value)

    return convert


def _host_names_of(key: str) -> Callable[[object], tuple[str, ...]]:
    def convert(value: object) -> tuple[str, ...]:
        wanted = "a list of DNS names"
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise ConfigError(f"{key} = {value!r} cannot be used: it must be {wanted}")
        names = tuple(str(item).rstrip(".").lower() for item in value)
        if bad := [name for name in names if not _HOST.fullmatch(name)]:
            raise ConfigError(f"{key} = {bad[0]!r} cannot be used: it must be {wanted}")
        return names

    return convert


def _key(default: Any, validator: Any, what: str, **more: Any) -> Any:  # noqa: ANN401 - attrs' own type
    return attrs.field(default=default, validator=validator, metadata={"what": what}, **more)


@attrs.frozen
class Config:
    """What the operator decided; every field is a key of ``config.toml``."""

    name: str = _key(
        "",
        _check(
            lambda value: isinstance(value, str) and (not value or bool(_NAME.fullmatch(value))),
            "a host name of one label (a-z, 0-9, -)",
        ),
        "Name to ask for in networks; empty = the host's name.",
    )
    listen_port: int = _key(
        0,
        _between(0, 65535, ""),
        "UDP port; 0 = random at the first start, then the same for ever.",
    )
    endpoints: tuple[str, ...] = _key(
        (),
        _check(lambda value: len(value) <= 8, "at most 8 endpoints"),
        "Public HOST:PORT of this node that cannot be seen from inside; put into invites.",
        converter=_endpoints_of("endpoints"),
    )
    tun: bool = _key(
        True, _check(lambda value: isinstance(value, bool), "true or false"), "Make a TUN device."
    )
    tun_name: str = _key(
        "veil0",
        _check(
            lambda value: (
                isinstance(value, str) and bool(re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", value))
            ),
            "an interface name of 1 to 15 characters",
        ),
        "Name of the TUN device; if it is taken the next free number is used.",
    )
    mtu_bytes: int = _key(
        1380,
        _between(1280, 1500, " bytes"),
        "MTU inside the tunnel; 1380 leaves room for a relay over IPv6 in 1500.",
    )
    hosts_file: str = _key(
        "",
        _check(lambda value: isinstance(value, str), "a path"),
        "Keep the members' names in a marked block of this hosts file; empty = leave it alone.",
    )
    kem_backend: str = _key(
        "auto",
        _check(lambda value: value in KEM_BACKENDS, f"one of {', '.join(KEM_BACKENDS)}"),
        "Post-quantum backend: auto = liboqs if it passes its self-test, else cryptography.",
    )
    log_level: str = _key(
        "info",
        _check(lambda value: value in LOG_LEVELS, f"one of {', '.join(LOG_LEVELS)}"),
        "Least severity that is logged.",
    )
    log_json: bool = _key(
        False, _check(lambda value: isinstance(value, bool), "true or false"), "Log JSON lines."
    )
    idle_close_s: float = _key(
        300.0, _between(5, 86400, " s"), "Close a channel that carried nothing for so long."
    )
    relayed_idle_close_s: float = _key(
        60.0,
        _between(5, 86400, " s"),
        "The same for a channel over a relay, and for further paths of any channel.",
    )
    path_policy: str = _key(
        PATH_POLICIES[0],
        _check(lambda value: value in PATH_POLICIES, f"one of {', '.join(PATH_POLICIES)}"),
        "Who chooses among paths: veil; the others are there to be compared with it.",
    )
    path_trace: str = _key(
        "",
        _check(lambda value: isinstance(value, str), "a path"),
        "Write what the path policy is told and says to this file, for a replay; empty = do not.",
    )
    queue_s: float = _key(
        5.0, _between(1, 30, " s"), "How long a first packet may wait for its channel."
    )
    connect_timeout_s: float = _key(
        15.0, _between(1, 600, " s"), "How long `connect` tries unless told."
    )
    gossip_s: float = _key(
        300.0,
        _between(10, 86400, " s"),
        "How often members with a channel between them compare their member tables.",
    )
    lan: str = _key(
        "all",
        _check(lambda value: value in LAN_FOR, f"one of {', '.join(LAN_FOR)}"),
        "Find nodes on the same link: of the commons too (all), of own networks (own), or not.",
    )
    dns_seeds: tuple[str, ...] = _key(
        (),
        _check(lambda value: len(value) <= 8, "at most 8 names"),
        "DNS names whose TXT records tell first contacts; best of several owners.",
        converter=_host_names_of("dns_seeds"),
    )
    dns_servers: tuple[str, ...] = _key(
        (),
        _check(lambda value: len(value) <= 4, "at most 4 servers"),
        "DNS servers, as ADDRESS:PORT, to ask for the seeds; empty = the host's own.",
        converter=_endpoints_of("dns_servers"),
    )
    beacon: bool = _key(
        False,
        _check(lambda value: isinstance(value, bool), "true or false"),
        "Meet on BitTorrent's Mainline DHT, whose nodes and crawlers then see this host's address.",
    )
    beacon_bootstrap: tuple[str, ...] = _key(
        (),
        _check(lambda value: len(value) <= 16, "at most 16 nodes"),
        "First nodes of the Mainline DHT as HOST:PORT; empty = the well-known ones.",
        converter=_endpoints_of("beacon_bootstrap"),
    )
    port_mapping: bool = _key(
        True,
        _check(lambda value: isinstance(value, bool), "true or false"),
        "Ask the gateway for a port that leads here (PCP, NAT-PMP, UPnP).",
    )
    relay: str = _key(
        "own",
        _check(lambda value: value in RELAY_FOR, f"one of {', '.join(RELAY_FOR)}"),
        "Relay for members of own networks (own), for strangers too (all), or for nobody (off).",
    )
    relay_circuits: int = _key(
        64,
        _whole(1, 4096, ""),
        "Circuits relayed at once; one peer has at most half of them.",
    )
    relay_rate_bps: int = _key(
        0,
        _whole(0, 10**12, " bits per second"),
        "Rate of all that is relayed; one peer has at most half; 0 = no limit.",
    )
    relay_volume_bytes: int = _key(
        0,
        _whole(0, 10**18, " bytes"),
        "Bytes relayed in 24 hours; one peer has at most half; 0 = no limit.",
    )
    home_relays: int = _key(
        3,
        _whole(0, 8, ""),
        "Links per network kept to members that relay, so that this node can be found by them.",
    )
    commons: str = _key(
        "veilnet",
        _check(
            lambda value: isinstance(value, str) and (not value or bool(_NAME.fullmatch(value))),
            "one label (a-z, 0-9, -), or empty",
        ),
        "The commons to be found in, and to find others by; empty = keep to one's own networks.",
    )
    contacts: tuple[str, ...] = _key(
        (),
        _check(lambda value: len(value) <= 16, "at most 16 HOST:PORT"),
        "HOST:PORT of nodes of the commons to begin with, beside all that is found.",
        converter=_endpoints_of("contacts"),
    )
    tcp_listen: str = _key(
        "auto",
        _check(lambda value: value in TCP_LISTEN, f"one of {', '.join(TCP_LISTEN)}"),
        "Take TLS connections on the UDP port's number from nodes whose UDP is blocked; "
        "auto = where this node relays for strangers.",
    )
    commons_relays: int = _key(
        2,
        _whole(0, 8, ""),
        "Links kept to nodes of the commons that relay for strangers, to be found by through them.",
    )
    rekey_s: float = _key(
        90.0,
        _between(1, 240, " s"),
        "A session in use gets keys from a fresh KEM after once to twice this, at random.",
    )
    step_s: float = _key(
        240.0,
        _between(1, 3600, " s"),
        "Keys older than this are stepped by the engine alone, should a fresh KEM be late.",
    )
    step_datagrams: int = _key(
        1 << 26,
        _between(1000, 1 << 27, ""),
        "Keys that sealed so many datagrams are stepped by the engine alone.",
    )
    tun_offload: bool = _key(
        True,
        _check(lambda value: isinstance(value, bool), "true or false"),
        "Carry the kernel's super-packets whole; false for a kernel that does it wrong.",
    )
    udp_gso: bool = _key(
        True,
        _check(lambda value: isinstance(value, bool), "true or false"),
        "Send many datagrams in one call; false for a network card that does it wrong.",
    )
    udp_gro: bool = _key(
        True,
        _check(lambda value: isinstance(value, bool), "true or false"),
        "Receive many datagrams in one call.",
    )

    def override(self, changes: Mapping[str, Any]) -> Config:
        """Return self with *changes* (None = unchanged).

        Raises: ConfigError.
        """
        return attrs.evolve(
            self, **{key: value for key, value in changes.items() if value is not None}
        )

    def to_json(self) -> dict[str, Any]:
        """Return every key with its value."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in attrs.asdict(self).items()
        }


def as_toml(value: object) -> str:
    """Return *value* as it would stand in the file."""
    # TOML's basic strings, numbers, booleans and arrays of them are JSON's.
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def documented() -> dict[str, tuple[Any, str]]:
    """Return default and meaning of every key."""
    return {
        field.name: (field.default, str(field.metadata["what"])) for field in attrs.fields(Config)
    }


def fault(key: str, value: object) -> str:
    """Return why *value* cannot be that of *key*, nothing if it can."""
    if key not in documented():
        return "it means nothing: no key has that name"
    try:
        Config().override({key: value})
    except ConfigError as error:
        return error.message.removeprefix(f"{key} = ")
    except TypeError as error:
        return f"it is of the wrong kind: {error}"
    return ""


def read(state: Path) -> tuple[Config, dict[str, str], bool]:
    """Return what in the file can be used, why each other key cannot, and whether there is a file.

    Raises: ConfigError: it cannot be read or is not TOML; PrivilegeError: it is not ours to read.
    """
    values = _values(state / FILE_NAME)
    faults = {key: why for key, value in (values or {}).items() if (why := fault(key, value))}
    good = {key: value for key, value in (values or {}).items() if key not in faults}
    return Config(**good), faults, values is not None


def load(state: Path) -> Config:
    """Return the configuration in the folder *state*; a missing file means the defaults.

    Raises: ConfigError: it cannot be read, is not TOML, or has a key or value that is none;
    PrivilegeError: it is not ours to read.
    """
    config, faults, _ = read(state)
    if faults:
        raise bad_file(state, faults)
    return config


def bad_file(state: Path, faults: Mapping[str, str]) -> ConfigError:
    """Return the error for what `read` found."""
    said = "; ".join(f"{key!r}: {why}" for key, why in faults.items())
    return ConfigError(
        f"{state / FILE_NAME} cannot be used: {said}",
        hint="Correct the file; every key, its meaning and value: veilnet config show",
    )


def _values(path: Path) -> dict[str, Any] | None:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise PrivilegeError(
            f"{path} is not this user's to read", hint="Use sudo, or name your own --state DIR."
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not TOML: {error}",
            hint="Each line is KEY = VALUE, with text in double quotes; # begins a comment.",
        ) from error
