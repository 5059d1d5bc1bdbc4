"""Translators of addresses between this node and the Internet, and ways through two of them.

```
reflexive   what observers say of our address  -> agreed by how many, in which places
classify    the ports that they saw            -> open, independent, sequential, random, blocked
punching    both ends' addresses and classes   -> who sends what where and when
keepalive   what a silence did to a mapping    -> how long the next may last
```
No clock, no socket, no random source of its own in here.
"""
