"""The running node: the only trio shell around the machines of `protocol` and `networks`.

```
run.py        start, stop, signals, the order in which things come up
node.py       what the node owns; commands.py answers the control socket from it
events.py     engine facts in; handshakes.py sessions.py channels.py gossip.py rekeying.py act
tun.py underlay.py hosts.py logs.py        the operating system's side
```
"""
