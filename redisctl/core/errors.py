"""The error that ends a verb with a message for people."""

from typing import Any


class Failure(Exception):
    """Something cannot be done: why, and what to do about it, on one line or a few.

    ``details`` are for programs: they are printed as JSON next to the message.
    """

    def __init__(self, message: str = "", /, **details: Any) -> None:
        super().__init__(message)
        self.details = details
