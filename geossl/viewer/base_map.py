"""Tiles of others below a map, where the user asks for them: the only thing of the page that is not of this machine."""

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from geossl.errors import InputError

OSM = "osm"
LOCAL = ("127.0.0.1", "localhost")
ADDRESS = re.compile(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?/[A-Za-z0-9._~/{}?=&%:@+-]*")


class BaseMap(NamedTuple):
    """Where tiles come from.

    Attributes:
        url: With ``{z}``, ``{x}`` and ``{y}``.
        credit: What the page says of their source, as HTML.
    """

    url: str
    credit: str

    @property
    def origin(self) -> str:
        """Scheme and host, which the page may load images from."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


def base_map(name: str) -> BaseMap:
    """``osm``, or the address of tiles.

    Raises:
        InputError: If it is neither.
    """
    if name == OSM:
        credit = '&copy; <a href="https://www.openstreetmap.org/copyright">OpenStreetMap</a> contributors'
        return BaseMap("https://tile.openstreetmap.org/{z}/{x}/{y}.png", credit)
    is_address = ADDRESS.fullmatch(name) is not None
    parts = urlsplit(name) if is_address else None
    has_all = all(name.count(f"{{{letter}}}") == 1 for letter in "zxy") and name.count("{") == 3
    if parts is None or not has_all or (parts.scheme == "http" and parts.hostname not in LOCAL):
        raise InputError(
            f"--base-map {name!r} is not known; use {OSM}, or an address such as "
            "https://tiles.example.org/{z}/{x}/{y}.png"
        )
    return BaseMap(name, f"base map: {parts.hostname}")
