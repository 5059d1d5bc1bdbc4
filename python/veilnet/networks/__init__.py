"""Private networks without a registry: who is a member, by whose signature, at which address.

A network is its genesis record; membership is a credential that its owner signed; everything
else is gossip that each node verifies alone.  Nothing here reads a clock, a socket or a random
source: time is an argument in unix seconds, randomness a function from a count to bytes.
"""
