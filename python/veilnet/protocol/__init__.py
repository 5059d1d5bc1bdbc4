"""Protocols as state machines without I/O: `(event, now, rng) -> actions`.

Nothing here reads a clock, a socket or a random source, and nothing imports trio; `daemon/` is
the only shell around these machines.
"""
