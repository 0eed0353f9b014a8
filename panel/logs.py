"""What keeps secrets that travel in an address out of the logs."""

from __future__ import annotations

import logging
import re

_SECRET_PATH = re.compile(r"(/sign-in/|/password/reset/key/)[^\s/?\"']+")


def redact(text: str) -> str:
    """The text with the tokens of sign-in and password-reset links taken out."""
    return _SECRET_PATH.sub(r"\1[redacted]", text)


class RedactLinks(logging.Filter):
    """Takes the tokens out of every line, whoever writes it: Django and the server log addresses."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if (clean := redact(text)) != text:
            record.msg, record.args = clean, None
        return True
