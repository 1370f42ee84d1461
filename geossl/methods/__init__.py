"""Self-supervised methods by recipe name."""

from geossl.errors import UnknownNameError
from geossl.methods.base import SSLMethod
from geossl.methods.croma import CROMA

METHODS: dict[str, type[SSLMethod]] = {"croma": CROMA}


def method(name: str) -> type[SSLMethod]:
    """Look up a method class by its recipe name.

    Raises:
        UnknownNameError: If there is none.
    """
    try:
        return METHODS[name]
    except KeyError:
        raise UnknownNameError("method", name, METHODS) from None
