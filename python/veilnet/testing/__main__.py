"""``python -m veilnet.testing COMMAND...``: run a command in new namespaces."""

from __future__ import annotations

import sys

from veilnet.errors import VeilError
from veilnet.testing.entry import become, check, command


def main() -> None:
    """Become the command, or say in two lines why not."""
    words = sys.argv[2:] if sys.argv[1:2] == ["--"] else sys.argv[1:]
    if not words:
        sys.stderr.write("usage: python -m veilnet.testing COMMAND...\n")
        sys.exit(2)
    try:
        check()
    except VeilError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.code)
    become(command(words))


if __name__ == "__main__":
    main()
