"""The error that ends a verb with a message for people."""


class Failure(Exception):
    """Something cannot be done: why, and what to do about it, on one line or a few."""
