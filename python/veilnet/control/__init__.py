"""How the command line and other local programs speak with the daemon.

One unix socket, one request per connection, JSON lines:

```
client -> daemon   {"command": "connect", "args": {"peer": "server", "timeout_s": 15}}
daemon -> client   {"event": {...}}                         none or more, while it works
daemon -> client   {"result": {...}} or {"error": VeilError.to_json()}  the last line
```

Who may ask is decided by the kernel's word (SO_PEERCRED), on every request: root, the daemon's
own user, the operator recorded at the first start, and, if the daemon runs as root, the members of
the host's group `veilnet`.
"""
