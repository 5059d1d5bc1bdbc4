"""The commons, where strangers find each other: asking, the DHT, what is published, havens."""
