"""The nodes' logs: one JSON object per line, on stderr.

Rule. A log says what happened and how often, never to whom or with what: no ids of sessions and orders,
no content, no keys. Whoever reads a node's log shall learn nothing that its store would not tell.
"""

from __future__ import annotations

import logging
import sys

import structlog


def log_to_stderr(level: int = logging.INFO) -> None:
    """Set structlog up for a node's process."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Of an exception the text and the places, never the values of local variables.
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
