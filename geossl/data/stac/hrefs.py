"""What the addresses in a catalogue may point to: a catalogue names files, so it must not name just any file.

A remote catalogue names addresses (http, https, s3, gs) of its own host, of hosts under the same domain, or of the
object stores that public catalogues keep their scenes in; a catalogue on disk names those, or files below its own
folder. More hosts and folders are allowed by the environment variable ``GEOSSL_ALLOW=data.example.org,/archive``.
"""

import ipaddress
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from geossl.data.hosts import ALLOW, allowed_folders, allowed_hosts, host_of, scheme_of
from geossl.errors import BandError, InputError, redact

Item = dict[str, Any]  # a STAC item as JSON
SCHEMES = ("http", "https", "s3", "gs")
STORES = (  # object stores of public catalogues; whoever reads there reads what is public, or needs keys of its own
    "blob.core.windows.net",
    "amazonaws.com",
    "storage.googleapis.com",
    "dataspace.copernicus.eu",
    "cloudferro.com",
)


def check_item(item: dict[str, Any], wanted: tuple[str, ...], catalog: str) -> None:
    """Refuse an item whose bands lie where its catalogue must not point.

    Args:
        item: STAC item.
        wanted: Names of the assets that would be read.
        catalog: URL or path of its catalogue.

    Raises:
        BandError: Which asset, where it points, and how to allow it.
    """
    for name, asset in item["assets"].items():
        if name in wanted or name.upper() in wanted:
            try:
                check_href(asset.get("href") if isinstance(asset, dict) else None, catalog)
            except InputError as error:
                raise BandError(f"item {item['id']}: {name} {error}") from None


def check_href(href: Any, catalog: str) -> None:
    """Refuse an address that a catalogue must not name.

    Raises:
        InputError: Where it points, and how to allow it.
    """
    if not isinstance(href, str) or not href.isprintable() or not href or set(href) & set("<>\\ "):
        raise InputError("has no address that could be read")
    shown = redact(href)[:120]
    scheme = scheme_of(href)
    if scheme in SCHEMES:
        host = host_of(href)
        if scheme in ("s3", "gs") or is_allowed(host, catalog):
            return
        raise InputError(f"lies on {host or shown!r}, not a host of its catalogue; if you trust it: {ALLOW}={host}")
    if scheme not in ("", "file") or is_remote(catalog) or href.startswith("/vsi"):
        kind = "its catalogue is remote" if is_remote(catalog) else "only http, https, s3, gs and files are read"
        raise InputError(f"points to {shown!r}; {kind}, so it is not opened")
    check_path(Path(unquote(urlsplit(href).path) if scheme else href), Path(catalog).absolute().parent, shown)


def check_path(path: Path, folder: Path, shown: str) -> None:
    """Refuse a file outside the folder of its catalogue, links followed, and whatever is not a file."""
    if not path.is_absolute():
        raise InputError(f"has the relative address {shown!r}; a table of items needs whole ones")
    real = path.resolve()
    roots = [folder.resolve(), *allowed_folders()]
    if not any(real.is_relative_to(root) for root in roots):
        raise InputError(f"points to {shown!r}, outside its catalogue's folder; to allow it: {ALLOW}={real.parent}")
    if real.exists() and not real.is_file():
        raise InputError(f"points to {shown!r}, which is not a file")


def is_remote(catalog: str) -> bool:
    """Whether a catalogue comes over a network."""
    return scheme_of(catalog) in SCHEMES


def is_allowed(host: str, catalog: str) -> bool:
    """Whether files of a catalogue may lie on a host."""
    if host in allowed_hosts() or (is_remote(catalog) and host == host_of(catalog)):
        return bool(host)
    if is_address(host):
        return False
    own = host_of(catalog) if is_remote(catalog) else ""
    domain = own.split(".", 1)[1] if own.count(".") > 1 and not is_address(own) else ""
    return any(host.endswith("." + suffix) for suffix in (*STORES, domain) if suffix)


def is_address(host: str) -> bool:
    """Whether a host is written as a number; also as ``0x7f.1`` or ``2130706433``, which some readers take."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return bool(re.fullmatch(r"(0x[0-9a-f]*|\d+)(\.(0x[0-9a-f]*|\d+))*", host))
    return True
