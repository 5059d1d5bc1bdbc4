"""The node's own log: to stderr in the foreground, else to a bounded file in the state folder.

Text from peers is escaped: what is written is repr() or JSON, one event a line.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME: Final = "veilnet.log"
FILE_BYTES_MAX: Final = 4 * 1024 * 1024


def set_up(state: Path, *, level: str, as_json: bool, foreground: bool) -> None:
    """Send all log events of this process to one place.

    Raises: OSError: the file cannot be written.
    """
    handler: logging.Handler
    if foreground:
        handler = logging.StreamHandler(sys.stderr)
    else:
        handler = logging.handlers.RotatingFileHandler(
            state / FILE_NAME, maxBytes=FILE_BYTES_MAX, backupCount=1, encoding="utf-8"
        )
    # A full disk must cost log lines and nothing else.
    logging.raiseExceptions = False
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger("veilnet")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(level.upper())
    final: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"])
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            final,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
