"""Reading a decoded CBOR array field by field, so that past the parser no value can be wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from veilnet.errors import RemoteProtocolError
from veilnet.protocol import cbor

if TYPE_CHECKING:
    from veilnet.errors import VeilError

MAX_NUMBER: Final = 2**63 - 1
MAX_TIME: Final = 2**40
"""Unix seconds; the year 36812, so that sums of times stay small numbers."""


class Record:
    """One array of known length; each call takes the next field or raises *blame*."""

    def __init__(
        self, what: str, value: object, count: int, blame: type[VeilError] = RemoteProtocolError
    ) -> None:
        if not isinstance(value, list) or len(value) != count:
            raise blame(f"{what} is not an array of {count} fields")
        self.what = what
        self.blame = blame
        self._fields: list[object] = list(reversed(value))

    @classmethod
    def decode(
        cls,
        what: str,
        data: bytes,
        count: int,
        *,
        blame: type[VeilError] = RemoteProtocolError,
        max_bytes: int = cbor.MAX_BYTES,
    ) -> Record:
        """Decode *data* and begin reading it."""
        return cls(what, cbor.decode(data, blame=blame, max_bytes=max_bytes), count, blame)

    def wrong(self, why: str) -> VeilError:
        """Return the error for a field, to be raised by the caller."""
        return self.blame(f"{self.what}: {why}")

    def version(self, known: int) -> None:
        """Take the version field."""
        version = self.number()
        if version != known:
            raise self.wrong(f"version {version} is not the version {known} of this release")

    def number(self, *, least: int = 0, most: int = MAX_NUMBER) -> int:
        """Take an integer in [*least*, *most*]."""
        value = self._fields.pop()
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(f"a number from {least} to {most} is missing")
        return value

    def time(self) -> int:
        """Take a time in unix seconds."""
        return self.number(most=MAX_TIME)

    def flag(self) -> bool:
        """Take true or false."""
        value = self._fields.pop()
        if not isinstance(value, bool):
            raise self.wrong("true or false is missing")
        return value

    def octets(self, size: int) -> bytes:
        """Take a byte string of exactly *size* bytes."""
        return self.data(least=size, most=size)

    def data(self, *, least: int = 0, most: int) -> bytes:
        """Take a byte string of *least* to *most* bytes."""
        value = self._fields.pop()
        if not isinstance(value, bytes) or not least <= len(value) <= most:
            raise self.wrong(f"a byte string of {least} to {most} bytes is missing")
        return value

    def text(self, *, most: int) -> str:
        """Take a text of at most *most* characters."""
        value = self._fields.pop()
        if not isinstance(value, str) or len(value) > most:
            raise self.wrong(f"a text of at most {most} characters is missing")
        return value

    def nothing(self) -> bool:
        """Tell whether the next field is null, and take it if so."""
        if self._fields[-1] is not None:
            return False
        self._fields.pop()
        return True

    def array(self, *, least: int = 0, most: int) -> list[object]:
        """Take an array of *least* to *most* items."""
        value = self._fields.pop()
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise self.wrong(f"an array of {least} to {most} items is missing")
        return value
