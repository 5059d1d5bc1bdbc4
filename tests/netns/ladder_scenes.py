"""The ladder's programs on hosts of a lab, with what they print."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

from tests.netns.scenes import eventually

PROGRAM = Path(__file__).with_name("ladder_programs.py")


class Program:
    """One of the programs on a host, and the lines that it printed so far."""

    def __init__(self, host, *words):
        self.lines = []
        self.process = host.popen(
            [sys.executable, str(PROGRAM), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def up(self):
        """Wait until it says that it is up."""
        eventually(lambda: any(line.get("state") == "up" for line in self.lines))
        return self

    def end(self):
        """Close its input and wait until it has ended."""
        self.process.stdin.close()
        self.process.wait(10)
        self._reader.join(10)
        self.process.stdout.close()

    def found(self):
        """Return endpoint and seconds of every neighbour that it found, by peer id."""
        found = {}
        for line in self.lines:
            if "peer" in line:
                found.setdefault(line["peer"], {})[line["endpoint"]] = line["after_s"]
        return found
