"""Circuits: this node as a relay, as an end of circuits, and the relays that it can be found by."""
