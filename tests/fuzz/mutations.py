"""Damaged and hostile variants of good files: bytes flipped, cut, doubled and moved; JSON and YAML values replaced."""

import copy
import json
import random

ODD = [
    None, True, 0, -1, 1e308, -1e308, float("nan"), float("inf"), 2**63, 10**400, "", "x" * 5000, "\x00", "../../x",
    "/etc/passwd", "file:///etc/passwd", "http://[", "2024-13-45", "-12", "1e999", [], {}, [[]], [None], {"": None},
    ["a", 1], {"type": "x"}, [[[1e300, 1e300]]], [0] * 1000,
]  # fmt: skip


def broken_bytes(data, rng):
    """One to four random injuries."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        kind, at = rng.randrange(7), rng.randrange(max(1, len(data)))
        length = rng.choice([1, 2, 4, 8, 64, 512])
        if kind == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + length] = bytes(rng.choice([0, 255, rng.randrange(256)]) for _ in range(length))
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            data[at : at + 4] = rng.choice([2**31 - 1, 2**32 - 1, 0, 2**24]).to_bytes(4, "little")
        elif kind == 5 and rng.random() < 0.3:
            del data[at:]
        else:  # headers decide most
            head = rng.randrange(min(256, max(1, len(data))))
            data[head : head + 1] = bytes([rng.randrange(256)])
    return bytes(data)


def paths_in(value, path=()):
    """Where every value of nested JSON stands."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths_in(inner, (*path, key))


def broken_values(value, rng):
    """One to three values of nested JSON replaced, dropped, renamed or nested deep."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        places = [p for p in paths_in(value) if p]
        if not places:
            break
        *way, last = rng.choice(places)
        holder = value
        for key in way:
            holder = holder[key]
        kind = rng.randrange(5)
        if kind == 0 and isinstance(holder, dict):
            del holder[last]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(["typ", "X", "", "__class__"])] = holder.pop(last)
        elif kind == 2:
            deep = 1
            for _ in range(rng.choice([3, 200])):
                deep = [deep]
            holder[last] = deep
        else:
            holder[last] = copy.deepcopy(rng.choice(ODD))
    return value


def broken_text(value, rng):
    """A JSON document of broken values, in some encoding."""
    text = json.dumps(broken_values(value, rng))
    if rng.random() < 0.2:
        return broken_bytes(text.encode(), rng)
    return text.encode(rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))


def rng_of(target, number):
    """The random numbers of a case: the same every time."""
    return random.Random(f"{target} {number}")
