"""VeilNet: a post-quantum, decentralised overlay network."""

__version__ = "0.1.0"
