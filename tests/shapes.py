"""The checker of annotations while tests run: beartype, made at a function's first call, no argument looked at twice.

jaxtyping checks a call by two stubs: one of the arguments before it, one of arguments and result after it. Sizes of
named axes are kept in between, so of the second one only the result is checked.
"""

from typing import Any

from beartype import beartype


def checked(stub):
    """A stub of jaxtyping that refuses values other than annotated."""
    hint, code, made = stub.__annotations__.get("return", Any), stub.__code__, None
    result = None if hint is Any else code.co_varnames[code.co_argcount + code.co_kwonlyargcount - 1]

    def check(*arguments, **named):
        nonlocal made
        if made is None:
            made = beartype(stub if result is None else returning(hint))
        return made(*arguments, **named) if result is None else made(named[result])

    return check


def returning(hint):
    """A function that returns its argument, annotated to be of ``hint``."""

    def same(value):
        return value

    same.__annotations__ = {"return": hint}
    return same
