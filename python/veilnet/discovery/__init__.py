"""Finding each other with no server: a small Kademlia over lookup sessions.

Nothing here reads a clock, a socket or a random source.  `kademlia.Kademlia` is the machine,
`events` what goes in and comes out of it; `publisher` says what to publish and when, `descriptor`
what that is, `locator` under which key.

```
contact   hearsay: where a node is said to be      routing    the contacts a node keeps
lookup    one search, bounded in every way         storage    what a node keeps for others
quota     how much of it, for whom                 cache      contacts for the next start
```
"""
