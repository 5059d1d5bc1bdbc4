"""Programs that the ladder's tests run in namespaces: one step of a ladder, and a small gateway.

```
python ladder_programs.py seek  PORT PEER SECRET [public]    the LAN step; prints what it finds
python ladder_programs.py map   PORT                         the port mapping step; prints its line
python ladder_programs.py gate  ADDRESS WAN MODE LIFE [MAP]  a gateway: pcp, natpmp, deaf, upnp
```
With MAP, "FAMILY TABLE NAME" of a map of nft, what it grants by PCP leads where it says.
Each prints JSON lines, and ends at the end of its input.
"""

from __future__ import annotations

import http.server
import json
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from functools import partial
from ipaddress import IPv4Address, IPv6Address

DESCRIPTION = """<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><device>
<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>
<deviceList><device><deviceList><device><serviceList><service>
<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>
<controlURL>/control</controlURL><SCPDURL>/actions.xml</SCPDURL>
</service></serviceList></device></deviceList></device></deviceList>
</device></root>"""
ARGUMENTS = {
    "GetExternalIPAddress": (),
    "AddPortMapping": (
        "NewRemoteHost",
        "NewExternalPort",
        "NewProtocol",
        "NewInternalPort",
        "NewInternalClient",
        "NewEnabled",
        "NewPortMappingDescription",
        "NewLeaseDuration",
    ),
    "DeletePortMapping": ("NewRemoteHost", "NewExternalPort", "NewProtocol"),
}
ACTIONS = "".join(
    f"<action><name>{action}</name><argumentList>"
    + "".join(
        f"<argument><name>{name}</name><direction>in</direction></argument>" for name in names
    )
    + "</argumentList></action>"
    for action, names in ARGUMENTS.items()
)
SCHEMA = f'<?xml version="1.0"?><scpd><actionList>{ACTIONS}</actionList></scpd>'
_lock = threading.Lock()


def tell(**what):
    """Print one line, whole."""
    with _lock:
        print(json.dumps(what), flush=True)  # noqa: T201 - its output is its purpose


# -- steps of a ladder ----------------------------------------------------------------------------


async def climb(step, watch):
    """Run a ladder of *step* and *watch* it until the end of the input."""
    import trio

    from veilnet.daemon.ladder import Ladder

    ladder = Ladder([step], rng=random.Random())
    async with trio.open_nursery() as nursery:
        await nursery.start(ladder.run)
        nursery.start_soon(watch, ladder)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


def seek(port, peer, secret, *public):
    """Find neighbours; print each with the seconds since the start."""
    import trio

    from veilnet.daemon.ladder import Scope
    from veilnet.daemon.ladder.lan import Lan

    network = Scope(
        bytes.fromhex(secret), bytes.fromhex(peer), bytes.fromhex(secret), public=bool(public)
    )

    async def watch(ladder):
        began = time.monotonic()
        tell(state="up")
        async for found in ladder.contacts:
            tell(
                peer=found.peer.hex(),
                endpoint=str(found.endpoint),
                after_s=time.monotonic() - began,
            )

    lan = Lan(
        scopes=lambda: [network],
        port=int(port),
        tun=None,
        overlay=tuple,
        rng=random.Random(),
    )
    trio.run(climb, lan, watch)


def ask_for_port(port):
    """Hold a mapping; print the step's line whenever it changes, and what is left at the end."""
    import trio

    from veilnet.daemon.ladder import portmap

    vars(portmap).update(LEAST_RENEWAL_S=0.05, ASK_S=3.0)

    made = portmap.PortMap(port=int(port))

    async def watch(ladder):
        before = None
        while True:
            (now,) = ladder.report()
            now.pop("took_s", None)
            if now != before:
                tell(**now, mapped=str(made.mapped or ""))
                before = now
            await trio.sleep(0.01)

    trio.run(climb, made, watch)
    tell(state="over", mapped=str(made.mapped or ""))


# -- a gateway ------------------------------------------------------------------------------------


class Gateway:
    """What the protocols share: mappings by protocol-independent words, told as they change."""

    def __init__(self, address, wan, mode, life, leads=""):
        self.address, self.wan, self.mode, self.life = address, IPv4Address(wan), mode, int(life)
        self.leads = leads
        self.began = time.monotonic()

    @property
    def epoch(self):
        """Seconds since the gateway started."""
        return int(time.monotonic() - self.began)

    def run(self):
        """Serve until the end of the input."""
        serve = {"upnp": self.serve_ssdp}.get(self.mode, self.serve_5351)
        threading.Thread(target=serve, daemon=True).start()
        sys.stdin.read()

    def serve_5351(self):
        """PCP and NAT-PMP share a port: the first byte says which."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind((self.address, 5351))
            tell(state="up")
            while True:
                data, source = server.recvfrom(1_100)
                answer = self.pcp(data, source) if data[0] == 2 else self.natpmp(data, source)
                if answer is not None:
                    server.sendto(answer, source)

    def pcp(self, data, source):
        """RFC 6887 section 11."""
        if self.mode == "natpmp":  # RFC 6886 section 3.5: unsupported version
            return struct.pack("!BBHI", 0, 128 | data[1], 1, self.epoch)
        if self.mode == "deaf":
            return None
        _, opcode, _, life, client = struct.unpack_from("!BBHI16s", data)
        nonce, protocol, inside, outside = struct.unpack_from("!12sB3xHH", data, 24)
        result = 0 if IPv6Address(client).ipv4_mapped == IPv4Address(source[0]) else 12
        given = min(life, self.life)
        if self.leads and given and not result:
            element = f"{{ {outside} : {source[0]} . {inside} }}"
            subprocess.run(["nft", f"add element {self.leads} {element}"], check=True)
        tell(by="PCP", client=source[0], protocol=protocol, inside=inside, life=life, result=result)
        header = struct.pack("!BBBBII12x", 2, 128 | opcode, 0, result, given, self.epoch)
        wan = IPv6Address(f"::ffff:{self.wan}").packed
        return header + struct.pack("!12sB3xHH", nonce, protocol, inside, outside) + wan

    def natpmp(self, data, source):
        """RFC 6886 section 3."""
        if data[1] == 0:
            return struct.pack("!BBHI4s", 0, 128, 0, self.epoch, self.wan.packed)
        _, opcode, inside, outside, life = struct.unpack("!BBxxHHI", data)
        tell(by="NAT-PMP", client=source[0], protocol=opcode, inside=inside, life=life)
        given = min(life, self.life)
        return struct.pack("!BBHIHHI", 0, 128 | opcode, 0, self.epoch, inside, outside, given)

    def serve_ssdp(self):
        """Answer M-SEARCH with where the description is, and serve that over HTTP."""
        web = http.server.ThreadingHTTPServer((self.address, 0), partial(Soap, self))
        threading.Thread(target=web.serve_forever, daemon=True).start()
        where = f"http://{self.address}:{web.server_address[1]}/root.xml"
        wanted = b"urn:schemas-upnp-org:device:InternetGatewayDevice:1"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            group = socket.inet_aton("239.255.255.250") + socket.inet_aton(self.address)
            server.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            server.bind(("239.255.255.250", 1900))
            tell(state="up")
            while True:
                data, source = server.recvfrom(2_048)
                if data.startswith(b"M-SEARCH") and wanted in data:
                    answer = (
                        f"HTTP/1.1 200 OK\r\nST: {wanted.decode()}\r\nLOCATION: {where}\r\n\r\n"
                    )
                    server.sendto(answer.encode(), source)


class Soap(http.server.BaseHTTPRequestHandler):
    """UPnP IGD 1: the description, the list of actions, and three of the actions."""

    def __init__(self, gateway, *arguments):
        self.gateway = gateway
        super().__init__(*arguments)

    def log_message(self, *_):
        """Say nothing."""

    def do_GET(self):
        """Serve the two documents."""
        self._send(DESCRIPTION if self.path == "/root.xml" else SCHEMA)

    def do_POST(self):
        """Act."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        action = self.headers["SOAPAction"].strip('"').partition("#")[2]
        said = dict(re.findall(r"<(New\w+)>([^<]*)</", body))
        more = ""
        if action == "GetExternalIPAddress":
            more = f"<NewExternalIPAddress>{self.gateway.wan}</NewExternalIPAddress>"
        else:
            tell(by="UPnP", action=action, **said)
        self._send(
            '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/">'
            f'<s:Body><u:{action}Response xmlns:u="urn:schemas-upnp-org:service:WANIPConnection:1">'
            f"{more}</u:{action}Response></s:Body></s:Envelope>"
        )

    def _send(self, text):
        data = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    _, program, *words = sys.argv
    if program == "gate":
        Gateway(*words).run()
    elif program == "map":
        ask_for_port(*words)
    else:
        seek(*words)
