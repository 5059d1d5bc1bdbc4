"""Where a member table keeps its rows: an SQLite database, so that memory need hold no member.

```
member    peer id, name, serial, times, where it was seen or is said to be: what is looked for
paper     its public key and credential (5 to 11 KB), read when they are needed, and their hash
claim     the addresses that its credential gives it
petname   what this node calls others
```
A row was verified before it came in, and is as trustworthy as the folder that it lies in: that
holds this node's keys, too.  A paper that the disk has changed is no member until somebody tells
of it again.

Changes are whole or not at all, and on the disk after `flush`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from veilnet.errors import ClosedError, ConfigError, InternalError
from veilnet.networks import credential as credentials
from veilnet.networks.endpoint import Endpoint
from veilnet.networks.member import MAX_ENDPOINTS, MAX_TELLERS, Hearsay, Member
from veilnet.networks.records import Record
from veilnet.protocol import cbor
from veilnet.units import PEER_ID_BYTES, PeerId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from ipaddress import IPv4Address, IPv6Address

_VERSION: Final = 3
_APPLICATION: Final = 0x7665696C
"""SQLite's mark of whose file it is: "veil"."""
_CACHE_KIB: Final = 512
_RECENT: Final = 64
"""Members that are kept read: a node deals with few at a time."""
_PAGE: Final = 64
_UNWRITTEN_MAX: Final = 1_024
_HOW: Final[Mapping[str, Any]] = {
    "isolation_level": None,
    "check_same_thread": False,
    # Whoever locks the file from outside must not stop the event loop for seconds.
    "timeout": 0.0,
}
_DIGEST_BYTES: Final = 16

# Checked, too, when a file is opened: damage to it is found there, and not later by a type.
_SCHEMA: Final = """
CREATE TABLE member (
    peer_id BLOB PRIMARY KEY CHECK (typeof(peer_id) = 'blob' AND length(peer_id) = 32),
    name TEXT CHECK (typeof(name) = 'text'),
    serial INTEGER CHECK (typeof(serial) = 'integer'),
    not_before INTEGER CHECK (typeof(not_before) = 'integer'),
    not_after INTEGER CHECK (typeof(not_after) = 'integer'),
    observed_s INTEGER CHECK (typeof(observed_s) = 'integer'),
    places BLOB CHECK (typeof(places) = 'blob')
) WITHOUT ROWID;
CREATE INDEX member_rank ON member (serial, peer_id, observed_s);
CREATE INDEX member_name ON member (name);
CREATE TABLE paper (
    peer_id BLOB PRIMARY KEY CHECK (typeof(peer_id) = 'blob' AND length(peer_id) = 32),
    public_key BLOB CHECK (typeof(public_key) = 'blob'),
    credential BLOB CHECK (typeof(credential) = 'blob'),
    digest BLOB CHECK (typeof(digest) = 'blob')
);
CREATE INDEX paper_digest ON paper (digest);
CREATE TABLE claim (
    address BLOB,
    serial INTEGER,
    peer_id BLOB CHECK (typeof(peer_id) = 'blob' AND length(peer_id) = 32),
    PRIMARY KEY (address, serial, peer_id)
) WITHOUT ROWID;
CREATE INDEX claim_peer ON claim (peer_id);
CREATE TABLE petname (
    name TEXT PRIMARY KEY CHECK (typeof(name) = 'text'),
    peer_id BLOB CHECK (typeof(peer_id) = 'blob' AND length(peer_id) = 32)
) WITHOUT ROWID;
"""
_SELECT: Final = (
    "SELECT peer_id, name, serial, places, public_key, credential, digest"
    " FROM member JOIN paper USING (peer_id)"
)

log = structlog.get_logger("veilnet.networks")


class DamagedRoster(ConfigError):
    """The file is not what was written."""


class Roster:
    """The rows, in a file or in memory.  Any thread may call; one at a time gets in."""

    def __init__(self, path: Path | None = None) -> None:
        """Open the database at *path*, empty if there is none; None: in memory.

        Raises: ConfigError: the file is damaged, or no database of this release.
        """
        self._lock = threading.RLock()
        self._path = path
        self._db: sqlite3.Connection | None = _open(path)
        self._recent: OrderedDict[PeerId, Member] = OrderedDict()
        self._unwritten: OrderedDict[PeerId, Member] = OrderedDict()
        """What a full disk did not take, at most `_UNWRITTEN_MAX`."""

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        with self._lock:
            if self._db is not None:
                with contextlib.suppress(sqlite3.Error):
                    # The last one to close takes the journal in.
                    self._db.execute("PRAGMA synchronous = NORMAL").fetchall()
                self._db.close()
                self._db = None
                self._recent.clear()
                self._unwritten.clear()

    def __del__(self) -> None:
        """Close what nobody closed."""
        with contextlib.suppress(AttributeError):  # it was never opened
            self.close()

    def settle(self, path: Path) -> None:
        """Move into the file at *path*, in the place of one that an unfinished network left there.

        Raises: ConfigError: it cannot be written.
        """
        with self._lock, _explained(path):
            for left in (f"{path}-wal", f"{path}-shm", path):
                Path(left).unlink(missing_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            into = sqlite3.connect(path, **_HOW)
            try:
                self._connection.backup(into)
                _prepare(into)
            except BaseException:
                into.close()
                raise
            self._connection.close()
            self._db, self._path = into, path

    @property
    def settled(self) -> bool:
        """Whether the rows have a file."""
        return self._path is not None

    def flush(self) -> None:
        """Put what has changed on the disk.  Takes as long as that takes, and holds nobody up.

        Raises: ConfigError: the disk is full or broken; nothing is lost, and the next may succeed.
        ClosedError.
        """
        with self._lock:
            for member in list(self._unwritten.values()):
                self._write(member)
                del self._unwritten[member.peer_id]
            self._all("SELECT 1")  # is it open?
        if self._path is not None:
            # By a connection of its own, which waits for the disk without keeping others waiting.
            with _explained(self._path), contextlib.closing(sqlite3.connect(self._path)) as other:
                other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    # one member

    def get(self, peer_id: PeerId) -> Member | None:
        """Return the member of that id."""
        with self._lock:
            recent = self._unwritten.get(peer_id) or self._recent.get(peer_id)
            if recent is not None:
                if peer_id in self._recent:
                    self._recent.move_to_end(peer_id)
                return recent
            rows = self._all(f"{_SELECT} WHERE peer_id = ?", peer_id)
            member = self._read(rows[0]) if rows else None
            if member is not None:
                self._recent[peer_id] = member
                if len(self._recent) > _RECENT:
                    self._recent.popitem(last=False)
            return member

    def held(self, public_key: bytes, credential: bytes) -> Member | None:
        """Return the member that has just these papers."""
        rows = self._all(f"{_SELECT} WHERE digest = ?", _digest(public_key, credential))
        return _member(rows[0]) if rows else None

    def put(self, member: Member) -> None:
        """Take *member* in, in the place of what was known of it.

        What a full disk does not take is kept apart, found by its id, until `flush` succeeds.
        """
        with self._lock:
            self._unwritten.pop(member.peer_id, None)
            try:
                self._write(member)
            except ConfigError as error:
                log.warning("member not written", reason=error.message)
                self._unwritten[member.peer_id] = member
                if len(self._unwritten) > _UNWRITTEN_MAX:
                    self._unwritten.popitem(last=False)

    def _write(self, member: Member) -> None:
        known, key = member.credential, member.peer_id
        digest = _digest(member.public_key, member.encoding)
        with self._changing() as change:
            change(
                "REPLACE INTO member VALUES (?, ?, ?, ?, ?, ?, ?)",
                key, known.name, known.serial, known.not_before, known.not_after,
                member.observed_s, _places(member),
            )  # fmt: skip
            if not change("SELECT 1 FROM paper WHERE peer_id = ? AND digest = ?", key, digest):
                change(
                    "REPLACE INTO paper VALUES (?, ?, ?, ?)",
                    key, member.public_key, member.encoding, digest,
                )  # fmt: skip
                change("DELETE FROM claim WHERE peer_id = ?", key)
                for address in member.addresses:
                    change("REPLACE INTO claim VALUES (?, ?, ?)", address.packed, known.serial, key)
        self._recent.pop(key, None)

    def drop(self, peer_id: PeerId) -> None:
        """Forget a member; a broken disk may remember it."""
        self._recent.pop(peer_id, None)
        self._unwritten.pop(peer_id, None)
        try:
            with self._changing() as change:
                change("DELETE FROM member WHERE peer_id = ?", peer_id)
                change("DELETE FROM paper WHERE peer_id = ?", peer_id)
                change("DELETE FROM claim WHERE peer_id = ?", peer_id)
        except ConfigError as error:
            log.warning("member not forgotten", reason=error.message)

    def holder(self, address: IPv4Address | IPv6Address) -> PeerId | None:
        """Return who holds an address: of several the one with the newest credential."""
        ids = self._ids(
            "SELECT peer_id FROM claim WHERE address = ?"
            " ORDER BY serial DESC, peer_id DESC LIMIT 1",
            address.packed,
        )
        return ids[0] if ids else None

    def name_of(self, peer_id: PeerId) -> str | None:
        """Return a member's own name."""
        rows = self._all("SELECT name FROM member WHERE peer_id = ?", peer_id)
        return str(rows[0][0]) if rows else None

    # many members, without their papers

    def __len__(self) -> int:
        return int(self._all("SELECT count(*) FROM member")[0][0])

    def __contains__(self, peer_id: object) -> bool:
        return peer_id in self._unwritten or bool(
            self._all("SELECT 1 FROM member WHERE peer_id = ?", peer_id)
        )

    def __iter__(self) -> Iterator[Member]:
        """Yield the members, by peer id; they may change meanwhile."""
        last = b""
        while rows := self._all(
            f"{_SELECT} WHERE peer_id > ? ORDER BY peer_id LIMIT {_PAGE}", last
        ):
            last = rows[-1][0]
            for row in rows:
                member = self._read(row)
                if member is not None:
                    yield member

    def newest_signed(self) -> int:
        """Return the latest time from which a credential holds; 0: there is none."""
        return int(self._all("SELECT max(not_before) FROM member")[0][0] or 0)

    def ranked(self, first: bytes, last: bytes) -> list[tuple[PeerId, int, int]]:
        """Return id, serial and time of observation of those with ids from *first* to *last*.

        The newest credentials come first.
        """
        return self._all(
            "SELECT peer_id, serial, observed_s FROM member WHERE peer_id BETWEEN ? AND ?"
            " ORDER BY serial DESC, peer_id DESC",
            first, last,
        )  # fmt: skip

    def oldest(self, count: int, but: Sequence[PeerId]) -> list[PeerId]:
        """Return the *count* members with the oldest credentials, none of *but*."""
        return self._by("serial, peer_id", count, but)

    def latest(self, count: int, but: Sequence[PeerId]) -> list[PeerId]:
        """Return the *count* members that were observed last, none of *but*."""
        return self._by("observed_s DESC, peer_id", count, but)

    def _by(self, order: str, count: int, but: Sequence[PeerId]) -> list[PeerId]:
        marks = ", ".join("?" * len(but))
        return self._ids(
            f"SELECT peer_id FROM member WHERE peer_id NOT IN ({marks})"  # noqa: S608 - not theirs
            f" ORDER BY {order} LIMIT ?",
            *but, count,
        )  # fmt: skip

    def valid(self, time: int) -> list[PeerId]:
        """Return whose credentials do not end before *time* (unix seconds)."""
        return self._ids("SELECT peer_id FROM member WHERE not_after >= ?", time)

    def named(self, name: str) -> list[PeerId]:
        """Return who is called *name*, by peer id."""
        return self._ids("SELECT peer_id FROM member WHERE name = ? ORDER BY peer_id", name)

    def between(self, first: bytes, last: bytes) -> list[PeerId]:
        """Return the ids from *first* to *last*, in order."""
        return self._ids(
            "SELECT peer_id FROM member WHERE peer_id BETWEEN ? AND ? ORDER BY peer_id", first, last
        )

    def directory(self) -> list[tuple[str, bytes]]:
        """Return names and packed addresses of all members, an entry for each address."""
        return self._all(
            "SELECT name, address FROM member JOIN claim USING (peer_id) ORDER BY peer_id, address"
        )

    def names_of_several(self) -> list[str]:
        """Return the names that more than one member has, sorted."""
        rows = self._all("SELECT name FROM member GROUP BY name HAVING count(*) > 1 ORDER BY name")
        return [str(row[0]) for row in rows]

    # petnames

    def petnames(self) -> dict[str, PeerId]:
        """Return what this node calls members."""
        return {str(name): PeerId(held) for name, held in self._all("SELECT * FROM petname")}

    def put_petnames(self, petnames: dict[str, PeerId]) -> None:
        """Keep *petnames* in the place of those that were.

        Raises: ConfigError: the disk is full or broken.
        """
        with self._changing() as change:
            change("DELETE FROM petname")
            for name, held in petnames.items():
                change("INSERT INTO petname VALUES (?, ?)", name, held)

    # SQL

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise ClosedError("the member table is closed")
        return self._db

    def _all(self, statement: str, *values: Any) -> list[Any]:  # noqa: ANN401 - SQLite's
        # Read to the end: an open cursor would keep the journal from being taken in.
        with self._lock, _explained(self._path):
            return self._connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Callable[..., list[Any]]]:
        """Take statements that are all done or none."""
        with self._lock:
            self._all("BEGIN IMMEDIATE")
            try:
                yield self._all
                self._all("COMMIT")
            except BaseException:
                # SQLite may have done so itself.
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    def _ids(self, statement: str, *values: Any) -> list[PeerId]:  # noqa: ANN401 - SQLite's
        return [PeerId(row[0]) for row in self._all(statement, *values)]

    def _read(self, row: Sequence[Any]) -> Member | None:
        member = _member(row)
        if member is None:
            log.warning("member forgotten", peer=row[0].hex()[:12], reason="the disk changed it")
            self.drop(PeerId(row[0]))
        return member


def _open(path: Path | None) -> sqlite3.Connection:
    with _explained(path):
        db: sqlite3.Connection = sqlite3.connect(path or ":memory:", **_HOW)
        try:
            _check(db, path)
            _prepare(db)
        except BaseException:
            db.close()
            raise
    return db


def _check(db: sqlite3.Connection, path: Path | None) -> None:
    """Make the tables, or see that they are there."""
    (mark,), (version,) = (
        db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
    )
    if (mark, version) == (0, 0) and not db.execute("SELECT 1 FROM sqlite_master").fetchall():
        db.executescript(
            f"BEGIN; {_SCHEMA} PRAGMA application_id = {_APPLICATION};"
            f" PRAGMA user_version = {_VERSION}; COMMIT;"
        )
    elif mark != _APPLICATION:
        raise _damaged(path, "it is no member table")
    elif version != _VERSION:
        raise ConfigError(
            f"{path} is of version {version}, not the version {_VERSION} of this release"
        )
    elif (found := db.execute("PRAGMA integrity_check(1)").fetchone()) != ("ok",):
        raise _damaged(path, str(found))


def _prepare(db: sqlite3.Connection) -> None:
    """Set what a connection has to be told each time."""
    for setting in (
        "journal_mode = WAL",
        # Waiting for the disk is the business of `flush`, whose checkpoint orders what is written:
        # after a power failure the table is as of a checkpoint or later, and whole.
        "synchronous = OFF",
        "wal_autocheckpoint = 0",
        f"cache_size = -{_CACHE_KIB}",
        "trusted_schema = OFF",
    ):
        db.execute(f"PRAGMA {setting}").fetchall()


@contextlib.contextmanager
def _explained(path: Path | None) -> Iterator[None]:
    try:
        yield
    except sqlite3.ProgrammingError as error:
        raise InternalError(f"the member table was misused: {error}") from error
    except (sqlite3.OperationalError, OSError) as error:
        raise ConfigError(
            f"cannot use {path or 'the member table'}: {error}",
            hint="Check the disk and the folder.",
        ) from error
    except (sqlite3.Error, UnicodeError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path | None, why: str) -> DamagedRoster:
    return DamagedRoster(
        f"{path or 'the member table'} is damaged: {why}",
        hint="Restore it from a backup, or remove it: members are learnt again from one another.",
    )


def _digest(public_key: bytes, credential: bytes) -> bytes:
    sized = len(public_key).to_bytes(4, "big") + public_key + credential
    return hashlib.blake2b(sized, digest_size=_DIGEST_BYTES).digest()


def _places(member: Member) -> bytes:
    return cbor.encode(
        [
            member.seen_s,
            [endpoint.pack() for endpoint in member.seen],
            [
                [said.observed_s, [each.pack() for each in said.endpoints], said.teller]
                for said in member.hearsay
            ],
        ]
    )


def _member(row: Sequence[Any]) -> Member | None:
    """Return the member of one row; None: it is not as it was written."""
    peer_id, name, serial, places, public_key, encoding, digest = row
    if _digest(public_key, encoding) != digest:
        return None
    try:
        credential = credentials.decode(encoding, blame=ConfigError)
        record = Record.decode("where a member is", places, 3, blame=ConfigError)
        seen_s, seen = record.time(), _endpoints(record)
        hearsay = []
        for item in record.array(most=MAX_TELLERS):
            told = Record("where a member is said to be", item, 3, ConfigError)
            hearsay.append(Hearsay(told.time(), _endpoints(told), told.data(most=PEER_ID_BYTES)))
    except ConfigError:
        return None
    if (credential.peer_id, credential.name, credential.serial) != (peer_id, name, serial):
        return None
    return Member(public_key, credential, encoding, seen, seen_s, tuple(hearsay))


def _endpoints(record: Record) -> tuple[Endpoint, ...]:
    endpoints = []
    for packed in record.array(most=MAX_ENDPOINTS):
        if not isinstance(packed, bytes):
            raise record.wrong("an endpoint is not bytes")
        endpoints.append(Endpoint.unpack(packed, blame=ConfigError))
    return tuple(endpoints)
