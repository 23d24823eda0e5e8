"""What patterns of keys and channels match, compared with each other.

Patterns are those of Redis: ``*``, ``?``, and classes such as ``[a-c]`` and ``[^x]``.
"""

from collections.abc import Iterable

# A pattern is a list of sets of bytes, and of ANY for "*".
ANY = None
_Token = frozenset[int] | None
_ALL, _NONE = frozenset(range(256)), frozenset[int]()


def wildcards(pattern: str) -> int:
    """Return how many parts of a pattern match more than one byte."""
    return sum(token is ANY or len(token) > 1 for token in _tokens(pattern))


def overlaps(one: str, other: str) -> bool:
    """Say whether a key exists that both patterns match."""
    first, second = _tokens(one), _tokens(other)
    seen: set[tuple[int, int]] = set()
    waiting = [(0, 0)]
    while waiting:
        i, j = waiting.pop()
        if (i, j) == (len(first), len(second)):
            return True
        if (i, j) in seen:
            continue
        seen.add((i, j))
        a, b = (tokens[place] if place < len(tokens) else _NONE for tokens, place in ((first, i), (second, j)))
        # A "*" ends, or takes what the other pattern needs next.
        if a is ANY:
            waiting += [(i + 1, j), *([(i, j + 1)] if b else [])]
        if b is ANY:
            waiting += [(i, j + 1), *([(i + 1, j)] if a else [])]
        if a is not ANY and b is not ANY and a & b:
            waiting.append((i + 1, j + 1))
    return False


def contains(outer: str, inner: str) -> bool:
    """Say whether the outer pattern matches every key that the inner one matches.

    Takes twice as long for each further wildcard in the outer pattern, at worst.
    """
    wide, narrow = _tokens(outer), _tokens(inner)
    letters = _letters(wide + narrow)
    seen: set[tuple[int, frozenset[int]]] = set()
    waiting = [(0, _skip(wide, [0]))]
    while waiting:
        state = waiting.pop()
        if state in seen:
            continue
        seen.add(state)
        position, places = state
        if position == len(narrow):
            if len(wide) not in places:
                return False
            continue
        token = narrow[position]
        if token is ANY:
            waiting.append((position + 1, places))
        following = position if token is ANY else position + 1
        for letter in letters:
            if token is ANY or letter in token:
                waiting.append((following, _step(wide, places, letter)))
    return True


def _step(tokens: list[_Token], places: Iterable[int], letter: int) -> frozenset[int]:
    """Return the places in a pattern after one more letter."""
    after = []
    for place in places:
        if place < len(tokens):
            token = tokens[place]
            if token is ANY:
                after.append(place)
            elif letter in token:
                after.append(place + 1)
    return _skip(tokens, after)


def _skip(tokens: list[_Token], places: Iterable[int]) -> frozenset[int]:
    """Add the places behind each "*", which can match nothing."""
    reached = set()
    for place in places:
        # Two "*" in a row are one token, so at most one is skipped.
        is_star = place < len(tokens) and tokens[place] is ANY
        reached |= {place, place + 1} if is_star else {place}
    return frozenset(reached)


def _letters(tokens: list[_Token]) -> list[int]:
    """Return one byte of each kind that the patterns distinguish."""
    classes = [token for token in tokens if token is not ANY]
    kinds = {tuple(letter in token for token in classes): letter for letter in _ALL}
    return list(kinds.values())


def _tokens(pattern: str) -> list[_Token]:
    tokens: list[_Token] = []
    text = pattern.encode()
    position = 0
    while position < len(text):
        letter = text[position : position + 1]
        if letter == b"[":
            token, position = _class(text, position + 1)
            tokens.append(token)
            continue
        if letter == b"\\" and position + 1 < len(text):
            position += 1
            tokens.append(frozenset([text[position]]))
        elif letter != b"*":
            tokens.append(_ALL if letter == b"?" else frozenset(letter))
        elif not tokens or tokens[-1] is not ANY:
            tokens.append(ANY)
        position += 1
    return tokens


def _class(text: bytes, position: int) -> tuple[frozenset[int], int]:
    """Return the bytes of a class that begins here, and where it ends.

    As in Redis, the end of the pattern closes a class.
    """
    is_negated = text[position : position + 1] == b"^"
    position += is_negated
    members: set[int] = set()
    while position < len(text) and text[position] != ord("]"):
        if text[position] == ord("\\") and position + 1 < len(text):
            position += 1
            members.add(text[position])
        elif position + 2 < len(text) and text[position + 1] == ord("-"):
            first, last = sorted((text[position], text[position + 2]))
            members.update(range(first, last + 1))
            position += 2
        else:
            members.add(text[position])
        position += 1
    return (_ALL - members if is_negated else frozenset(members)), position + 1
