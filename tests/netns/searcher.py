"""What a test adds to a daemon: blobs to keep, and to look up as one who knows a single node.

Run before the daemon's own program (`Node.foreground`).  It reads a named pipe ``wanted`` in the
state folder and answers with ``found.json``::

    {"put": [[locator, blob, storers], ...], "get": [[seed, locator, blob], ...]}
    {"put": [storers, ...], "get": [[found, hops, asked], ...]}
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PRELUDE = f"import runpy; runpy.run_path({__file__!r}, run_name='prelude')"


def arm(folder):
    """Let the commons' machine of this process do what is wanted in *folder*."""
    import trio

    from veilnet.daemon.commons.dht import Dht
    from veilnet.discovery.events import Put, Stored
    from veilnet.errors import PeerUnreachable
    from veilnet.networks.endpoint import Endpoint

    run = Dht.run

    async def put(dht, locator, blob, storers):
        wanted = Put(dht.next_id(), bytes.fromhex(locator), bytes.fromhex(blob), storers)
        done = await dht.run_put(wanted)
        return done.count if isinstance(done, Stored) else 0

    async def get(dht, seed, locator, blob):
        alone = Dht(dht._node, dht._node.commons)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, alone)
            alone.machine.look_around(dht.machine.horizon)
            alone.learned([Endpoint.parse(seed)])
            try:
                found = await alone.get(bytes.fromhex(locator), bytes.fromhex(blob).__eq__)
                said = [True, found.hops, found.asked]
            except PeerUnreachable:
                said = [False, 0, 0]
            alone.asking.moved()
            nursery.cancel_scope.cancel()
        return said

    async def serve(dht):
        read = (folder / "wanted").read_text
        wanted = json.loads(await trio.to_thread.run_sync(read, abandon_on_cancel=True))
        said = {
            "put": [await put(dht, *words) for words in wanted["put"]],
            "get": [await get(dht, *words) for words in wanted["get"]],
        }
        (folder / "found.tmp").write_text(json.dumps(said))
        (folder / "found.tmp").rename(folder / "found.json")

    async def armed(dht):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, dht)
            await run(dht)

    Dht.run = armed


if __name__ == "prelude":
    arm(Path(sys.argv[sys.argv.index("--state") + 1]))
