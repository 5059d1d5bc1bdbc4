"""Traffic that checks itself: contents of streams, gaps of a steady flow of datagrams."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import socket
import struct
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from veilnet.testing import Host

_CHUNK = 1 << 16


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def stream(
    source: Host, sink: Host, address: str, *, size_bytes: int = 4 << 20, timeout_s: float = 30.0
) -> bool:
    """Send a TCP stream to *address* on *sink* and say whether it arrived as it was."""
    content = random.Random(size_bytes).randbytes(size_bytes)
    with (
        sink.socket(_family(address), socket.SOCK_STREAM) as listener,
        source.socket(_family(address), socket.SOCK_STREAM) as sender,
        ThreadPoolExecutor(1) as pool,
    ):
        listener.bind((address, 0))
        listener.listen()
        for handle in (listener, sender):
            handle.settimeout(timeout_s)
        sender.connect(listener.getsockname()[:2])
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(timeout_s)
            digest = pool.submit(_digest, accepted)
            sender.sendall(content)
            sender.shutdown(socket.SHUT_WR)
            return digest.result() == hashlib.sha256(content).digest()


def _digest(stream: socket.socket) -> bytes:
    digest = hashlib.sha256()
    while chunk := stream.recv(_CHUNK):
        digest.update(chunk)
    return digest.digest()


def datagrams(source: Host, sink: Host, address: str, sizes: list[int]) -> bool:
    """Send one UDP datagram of each size to *address* on *sink*: did each arrive as it was?"""
    with (
        sink.socket(_family(address), socket.SOCK_DGRAM) as receiver,
        source.socket(_family(address), socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind((address, 0))
        receiver.settimeout(5)
        for size in sizes:
            content = random.Random(size).randbytes(size)
            sender.sendto(content, receiver.getsockname()[:2])
            if receiver.recv(1 << 16) != content:
                return False
    return True


class Ticking:
    """A datagram every few milliseconds from one host to another; a context manager.

    Afterwards: *sent*, *received* and *gap_s*, the longest time in which none arrived.
    """

    PERIOD_S = 0.005

    def __init__(self, source: Host, sink: Host, address: str) -> None:
        self.sent = self.received = 0
        self.gap_s = 0.0
        self._source, self._sink, self._address = source, sink, address
        self._done = threading.Event()
        self._threads = [threading.Thread(target=act) for act in (self._send, self._receive)]

    def __enter__(self) -> Self:
        self._receiver = self._sink.socket(_family(self._address), socket.SOCK_DGRAM)
        self._receiver.bind((self._address, 0))
        self._receiver.settimeout(0.5)
        self._sender = self._source.socket(_family(self._address), socket.SOCK_DGRAM)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()
        self._receiver.close()
        self._sender.close()

    def _send(self) -> None:
        to = self._receiver.getsockname()[:2]
        while not self._done.wait(self.PERIOD_S):
            self._sender.sendto(struct.pack("!Q", self.sent), to)
            self.sent += 1

    def _receive(self) -> None:
        last = time.monotonic()
        while not self._done.is_set():
            try:
                self._receiver.recv(100)
                self.received += 1
            except TimeoutError:
                continue
            finally:
                now = time.monotonic()
                self.gap_s = max(self.gap_s, now - last)
            last = now


class Iperf:
    """One iperf3 TCP stream under way; `report` waits for its end and returns its JSON."""

    def __init__(
        self, source: Host, sink: Host, address: str, *, seconds: float, every_s: float = 0.5
    ) -> None:
        self._server: subprocess.Popen[str] = sink.popen(
            ["iperf3", "-s", "-1", "--forceflush", "-B", address],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._server.stdout is not None
        while "listening" not in (line := self._server.stdout.readline()):
            assert line, "the iperf3 server ended"
        self._seconds = seconds
        self._client: subprocess.Popen[str] = source.popen(
            ["iperf3", "-J", "-c", address, "-t", f"{seconds:g}", "-i", f"{every_s:g}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self._client, self._server):
            process.kill()
            process.communicate()

    @property
    def running(self) -> bool:
        """Whether it still sends."""
        return self._client.poll() is None

    def report(self) -> dict[str, Any]:
        """Return iperf3's report; it must have ended well."""
        out, err = self._client.communicate(timeout=self._seconds + 30)
        assert self._client.returncode == 0, f"iperf3 failed: {out[-300:]} {err}"
        report: dict[str, Any] = json.loads(out)
        assert "error" not in report, report["error"]
        return report


def longest_pause_s(report: dict[str, Any]) -> float:
    """Return the longest row of iperf3's intervals in which nothing was sent, in seconds."""
    longest = pause = 0.0
    for interval in report["intervals"]:
        total = interval["sum"]
        pause = pause + total["seconds"] if total["bytes"] == 0 else 0.0
        longest = max(longest, pause)
    return longest


def message(source: Host, sink: Host, address: str, content: bytes, kind: int) -> bool:
    """Send *content* once, by UDP or TCP, to *address* on *sink*: did it arrive as it was?"""
    with (
        sink.socket(_family(address), kind) as receiver,
        source.socket(_family(address), kind) as sender,
    ):
        receiver.bind((address, 0))
        for handle in (receiver, sender):
            handle.settimeout(10)
        if kind == socket.SOCK_STREAM:
            receiver.listen()
        sender.connect(receiver.getsockname()[:2])
        sender.sendall(content)
        if kind == socket.SOCK_DGRAM:
            return receiver.recv(1 << 16) == content
        accepted, _ = receiver.accept()
        with accepted:
            accepted.settimeout(10)
            return accepted.recv(len(content), socket.MSG_WAITALL) == content


class Pouring:
    """A TCP stream that goes on until it is closed, its content checked; a context manager."""

    def __init__(self, source: Host, sink: Host, address: str) -> None:
        self._listener = sink.socket(_family(address), socket.SOCK_STREAM)
        self._sender = source.socket(_family(address), socket.SOCK_STREAM)
        self._listener.bind((address, 0))
        self._listener.listen()
        for handle in (self._listener, self._sender):
            handle.settimeout(60)
        self._sender.connect(self._listener.getsockname()[:2])
        self._sink, _ = self._listener.accept()
        self._sink.settimeout(60)
        self._done = threading.Event()
        self._changed = threading.Condition()
        self._content = random.Random(7).randbytes(_CHUNK)
        self._got = 0
        self._wrong = False
        self._threads = [threading.Thread(target=act) for act in (self._pour, self._drink)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for handle in (self._sender, self._sink):
            with contextlib.suppress(OSError):  # wakes a thread that is stuck in it
                handle.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for handle in (self._listener, self._sender, self._sink):
            handle.close()

    def _pour(self) -> None:
        with contextlib.suppress(OSError):  # closed in its middle
            while not self._done.is_set():
                self._sender.sendall(self._content)

    def _drink(self) -> None:
        while chunk := self._next():
            at = self._got % _CHUNK
            expected = (self._content + self._content)[at : at + len(chunk)]
            with self._changed:
                self._wrong = self._wrong or chunk != expected
                self._got += len(chunk)
                self._changed.notify_all()

    def _next(self) -> bytes:
        with contextlib.suppress(OSError):
            return self._sink.recv(_CHUNK)
        return b""

    def wait_for(self, size_bytes: int, *, more: bool = False, timeout_s: float = 10.0) -> None:
        """Wait until so much has arrived, or so much *more* than now."""
        with self._changed:
            wanted = size_bytes + (self._got if more else 0)
            assert self._changed.wait_for(lambda: self._got >= wanted, timeout_s), (
                f"{wanted - self._got} bytes are still missing after {timeout_s:g} s"
            )

    def is_right(self) -> bool:
        """Say whether all that arrived is what was sent."""
        return self._got > 0 and not self._wrong
