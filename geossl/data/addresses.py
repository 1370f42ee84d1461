"""Files that lie elsewhere: addresses a user names, how GDAL opens them, and reads that are tried again.

A host or bucket that the user names is read from. What lies in an archive elsewhere (``/vsizip//vsicurl/...``) names
its host inside and goes by ``geossl.data.hosts``. Only GeoTIFF and JPEG 2000 are opened, as a VRT, for one, would open
whatever other file it names.
"""

import os
import re
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import rasterio
from rasterio.io import DatasetReader

from geossl import retries
from geossl.data.hosts import ALLOW, allowed_hosts, host_of, hosts_in
from geossl.errors import InputError, MissingFileError, RunError, needs, redact

T = TypeVar("T")
GDAL_CACHE_BYTES = 64 * 2**20  # of blocks read; rasterio takes bytes, GDAL itself takes megabytes below 100000
GDAL = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_MAX_RETRY": "0",  # geossl.retries does, as GDAL would remember a failure
    "GDAL_HTTP_TIMEOUT": "30",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "GDAL_CACHEMAX": GDAL_CACHE_BYTES,
}
EODATA = "https://eodata.dataspace.copernicus.eu"  # the store of the Copernicus Data Space
STORES = {"s3": "vsis3", "gs": "vsigs"}
ADDRESS = re.compile(r"(https?|s3|gs)://|/vsi(zip|tar)/", re.IGNORECASE)
ARCHIVE = re.compile(r"/vsi(?:zip|tar)/(\{(?P<braced>[^}]+)\}|(?P<plain>.+?\.(?:zip|tar|tgz|tar\.gz))(?=/|$))", re.I)


def is_address(path: str | Path) -> bool:
    """Whether a path is a file elsewhere: ``https://``, ``s3://``, ``gs://``, or one in an archive, ``/vsizip/``."""
    return isinstance(path, str) and ADDRESS.match(path) is not None


def check_address(address: str, option: str) -> str:
    """An address that may be opened.

    Raises:
        InputError: If it has a sign that addresses have not, or names a host within that is not allowed.
        MissingFileError: If it lies in an archive on disk that is not there.
    """
    shown = redact(address)[:200]
    if not address.isprintable() or set(address) & set("<>\\ "):
        raise InputError(f"{option} {shown!r} is not an address; write spaces as %20")
    if not address.lower().startswith("/vsi"):
        if driver_of(address) == "GTiff" and not plain(address).lower().endswith((".tif", ".tiff")):
            raise InputError(
                f"{option} {shown} is not the address of a .tif or .jp2; other files are not read from afar"
            )
        return address
    if strange := [host for host in hosts_in(address) if host not in allowed_hosts()]:
        raise InputError(
            f"{option} {shown} lies in an archive on {redact(strange[0])}; to allow it: {ALLOW}={strange[0]}"
        )
    found = ARCHIVE.match(address)
    if found is None or not plain(address).lower().endswith((".tif", ".tiff", ".jp2")):
        raise InputError(f"{option} {shown} is not a file in an archive; write /vsizip//folder/a.zip/inner.tif")
    archive = found["braced"] or found["plain"]
    if not hosts_in(address) and not os.path.isfile(archive):
        raise MissingFileError(
            f"{option}: archive {archive!r} does not exist; a whole path has two slashes: /vsizip//a"
        )
    return address


def plain(address: str) -> str:
    """An address without query and fragment; names of files hold what tells a scene."""
    return re.split(r"[?#]", address)[0]


def driver_of(href: str) -> str:
    """The only format that a file may have: a VRT, for one, would open whatever other file it names."""
    return "JP2OpenJPEG" if plain(href).lower().endswith(".jp2") else "GTiff"


def gdal_name(href: str, attempt: int) -> str:
    """Name under which GDAL opens a path or URL; a fragment is not sent, but makes it another name."""
    scheme, found, rest = href.partition("://")
    if found and scheme.lower() in STORES:
        return f"/{STORES[scheme.lower()]}/{rest}"
    if not href.startswith(("http://", "https://")):
        return href
    return f"/vsicurl/{href}#{attempt}" if attempt else f"/vsicurl/{href}"


@contextmanager
def settings(href: str = "") -> Iterator[None]:
    """GDAL as files elsewhere need it.

    An object store of one's own is that of ``AWS_ENDPOINT_URL``, as for boto3; own certificates are those of
    ``SSL_CERT_FILE``, as for Python.
    """
    own = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if not own and href.startswith("s3://eodata/"):
        own = EODATA
    store = {"GDAL_CURL_CA_BUNDLE": os.environ["SSL_CERT_FILE"]} if os.environ.get("SSL_CERT_FILE") else {}
    if own:
        parts = urlsplit(own)
        store |= {"AWS_S3_ENDPOINT": parts.netloc, "AWS_HTTPS": "YES" if parts.scheme == "https" else "NO"}
        store["AWS_VIRTUAL_HOSTING"] = "FALSE"
    with rasterio.Env(**GDAL, **store):
        yield


def read(
    href: str, use: Callable[[DatasetReader], T], sign: Callable[[int], str] | None = None, tries: int = retries.TRIES
) -> T:
    """Open a file, use it, close it; failures that may pass are tried again, see ``geossl.retries``.

    Every try has a name of its own: GDAL remembers by name what it could not read.

    Args:
        href: The file.
        use: What to do with it while it is open.
        sign: The address with a fresh token, for the how-manieth try; None = the address as it is.
        tries: How often.

    Raises:
        RunError: If there is no such file, or after the last try; a failed read is never taken for missing data.
    """
    address = href

    def ask(attempt: int) -> T:
        nonlocal address
        address = href if sign is None else sign(attempt)
        with settings(href), rasterio.open(gdal_name(address, attempt), driver=driver_of(href)) as source:
            return use(source)

    failures = (rasterio.errors.RasterioError, OSError)  # signing asks a server, too
    try:
        return retries.tried(
            ask,
            host_of(href),
            lambda error: retries.answer_of(address, error),
            failures,
            1 if href.startswith("/vsi") else tries,
        )
    except retries.GaveUp as error:
        raise RunError(redact(f"{href} cannot be read ({error})")) from None
    except failures as error:
        words = " ".join([*getattr(error, "__notes__", []), *str(error).split()])
        raise RunError(redact(f"{href} cannot be read ({words[:200]})")) from None


def state(address: str) -> tuple[int, str]:
    """Bytes of a file, and what changes when it is written again; 0 and empty where its host does not say."""
    if address.lower().startswith("/vsi"):
        found = ARCHIVE.match(address)
        archive = Path(found["braced"] or found["plain"]) if found and not hosts_in(address) else None
        return (archive.stat().st_size, str(archive.stat().st_mtime_ns)) if archive else (0, "")
    if not address.lower().startswith("http"):
        return stored(address)
    request = urllib.request.Request(address, headers={"Range": "bytes=0-0"})  # signed addresses refuse HEAD
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            size = answer.headers.get("Content-Range", "").rpartition("/")[2] or answer.headers.get(
                "Content-Length", ""
            )
            changed = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    except (OSError, ValueError):
        return 0, ""
    return int(size) if size.isdigit() else 0, changed


def stored(address: str) -> tuple[int, str]:
    """The same of an object in a store."""
    try:
        import fsspec  # lazy: extra

        system, path = fsspec.core.url_to_fs(address, use_listings_cache=False)
    except ImportError:
        raise needs("remote") from None
    try:
        about = system.info(path)
    except FileNotFoundError:
        raise MissingFileError(f"{redact(address)} does not exist") from None
    except Exception as error:  # clients have errors of their own
        raise RunError(redact(f"{address} does not answer ({str(error).splitlines()[:1]})")) from None
    return int(about.get("size") or 0), str(about.get("ETag") or about.get("etag") or "")
