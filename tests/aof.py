"""Commands in the notation of an AOF."""

BACKDOOR = ("ACL", "SETUSER", "backdoor", "on", "nopass", "~*", "&*", "+@all")
MORE_RIGHTS = ("ACL", "SETUSER", "sessions", "nopass", "~*", "+@all")
FUNCTION = ("FUNCTION", "LOAD", "#!lua name=evil\nredis.register_function('f', function() return 1 end)")
REPLICA = ("REPLICAOF", "127.0.0.1", "1")


def encode(*parts: str | bytes) -> bytes:
    """Return a command as an AOF has it."""
    data = [text.encode() if isinstance(text, str) else text for text in parts]
    return b"*%d\r\n" % len(data) + b"".join(b"$%d\r\n%s\r\n" % (len(text), text) for text in data)
