"""``python -m veilnet`` is the program ``veilnet``."""

import sys

from veilnet.cli.main import main

sys.exit(main())
