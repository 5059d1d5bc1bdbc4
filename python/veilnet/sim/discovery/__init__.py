"""Discovery in virtual time: the shipped Kademlia machines on real round trips, with no socket.

Up to 10,000 nodes every one of them is a machine of its own.  Beyond that the answers of those who
are asked come from a *model* of their routing tables, and only who asks and who publishes runs the
machine; what comes from it is labelled so, and is compared with the machines at 10,000.
"""
