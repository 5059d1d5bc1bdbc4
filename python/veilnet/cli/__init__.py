"""The command line: parse, ask the daemon, print; nothing here touches a key or a packet."""
