"""Logs: a line of JSON for each record, on standard error, without what was said in a request."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any


class JSONFormatter(logging.Formatter):
    """A record as a line of JSON, with its ``values`` (``extra={"values": {…}}``) beside the message. Of an error it tells the
    type and where it was raised; what it says may hold a client's words, so that ``error_messages`` is for debugging alone."""

    def __init__(self, error_messages: bool = False) -> None:
        super().__init__()
        self.error_messages = error_messages

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        values: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "values", {}),
        }
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            frames = traceback.extract_tb(error.__traceback__)
            values["error"] = type(error).__name__
            values["trace"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
            if self.error_messages:
                values["error_message"] = str(error)
        return json.dumps(values, ensure_ascii=False, default=repr)


def configure(level: str) -> None:
    """All records of this process, those of libraries and warnings too, as lines of JSON on standard error, from ``level``
    upwards."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter(error_messages=level == "debug"))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(True)
    for library in (transformers_logging, diffusers_logging):  # each has a handler of its own, which prints plain lines
        library.disable_default_handler()
        library.enable_propagation()
    for name in ("httpx", "httpcore", "asyncio", "multipart", "python_multipart", "PIL"):
        # what they say below a warning tells addresses and contents
        logging.getLogger(name).setLevel(logging.WARNING)
