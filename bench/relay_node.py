"""The relay under test: VeilNet's engine in a process of its own, without a TUN device.

    python bench/relay_node.py PORT

The other ends' handshakes are answered as a daemon would, but for the identities: every end knows
the same door and the same KEM secret (`rust/engine/examples/relay_load/link.rs`).  Commands come on
standard input, one JSON object a line, each answered by one:

    {"circuits": [[port, label, port, label], ...]}     an end is named by its UDP port
    {"stats": true}
"""

from __future__ import annotations

import json
import select
import sys
from typing import Any

from veilnet._engine import (
    Engine,
    EngineFailed,
    HandshakeReceived,
    InitReceived,
    KeySchedule,
)

DOOR, NETWORK, K_NET, RESPONDER, KEM_SECRET = (bytes([n]) * 32 for n in (7, 1, 2, 3, 4))
_CIPHERTEXT_BYTES = 1088  # of ML-KEM-768: the engine carries it and looks no further
_NO_LIMIT = 1 << 50


class Relay:
    """One engine, its links by the far end's port, and its circuits."""

    def __init__(self, port: int) -> None:
        self.engine = Engine.open(listen_port=port)
        self.engine.add_door(DOOR)
        self._schedules: dict[int, KeySchedule] = {}

    def turn(self) -> None:
        """Answer what the engine has to tell."""
        for event in self.engine.drain():
            if isinstance(event, InitReceived):
                schedule = KeySchedule.respond(
                    event,
                    network_id=NETWORK,
                    secret=K_NET,
                    responder_id=RESPONDER,
                    ct=bytes(_CIPHERTEXT_BYTES),
                    ss=KEM_SECRET,
                )
                self._schedules[schedule.sid] = schedule
                self.engine.respond(schedule, event, b"e2" * 32)
            elif isinstance(event, HandshakeReceived):
                self.engine.accept(event.sid)
                del self._schedules[event.sid]
            elif isinstance(event, EngineFailed):
                raise SystemExit(f"the engine failed: {event.reason}")

    def command(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Do what one line of standard input says."""
        if "circuits" in wanted:
            sids = {s.endpoint[1]: s.sid for s in self.engine.sessions()}
            for port_a, label_a, port_b, label_b in wanted["circuits"]:
                self.engine.add_circuit(
                    (sids[port_a], label_a),
                    (sids[port_b], label_b),
                    rate_bps=_NO_LIMIT,
                    burst_bytes=_NO_LIMIT,
                    limit_bytes=_NO_LIMIT,
                )
            return {"circuits": len(wanted["circuits"]), "links": len(sids)}
        circuits = self.engine.circuits()
        stats = self.engine.stats()
        return {
            "circuits": len(circuits),
            "dropped": sum(c.dropped for c in circuits),
            "datagrams": sum(c.datagrams for c in circuits),
            "rx_calls": stats.rx_calls,
            "tx_calls": stats.tx_calls,
            "rx_datagrams": stats.rx_datagrams,
            "tx_datagrams": stats.tx_datagrams,
            "wakeups": stats.wakeups,
        }


def main() -> int:
    """Run until standard input ends."""
    relay = Relay(int(sys.argv[1]))
    print(json.dumps({"ready": relay.engine.port}), flush=True)
    fds = [relay.engine.fileno(), sys.stdin.fileno()]
    while True:
        ready, _, _ = select.select(fds, [], [])
        if fds[0] in ready:
            relay.turn()
        if fds[1] in ready:
            line = sys.stdin.readline()
            if not line:
                break
            print(json.dumps(relay.command(json.loads(line))), flush=True)
    relay.engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
