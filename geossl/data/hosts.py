"""Hosts that may be read from: the one reading of ``GEOSSL_ALLOW``, for VRTs and for the addresses of catalogues.

``GEOSSL_ALLOW=data.example.org,s3://bucket,/archive`` allows a host, a bucket and a folder. A host is matched as a
whole: ``example.org`` allows neither ``data.example.org`` nor an address that holds the words.
"""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

ALLOW = "GEOSSL_ALLOW"
ADDRESS = re.compile(r"(?=\b(https?|ftp|s3|gs|az)://([^\s'\"<>]*))", re.IGNORECASE)
BUCKET = re.compile(r"/?vsi(s3|gs|az|adls|oss|swift|hdfs|webhdfs)(?:_streaming)?[/?]+([^/?&\s]*)", re.IGNORECASE)
CURL = re.compile(r"/?vsicurl\w*[/?]", re.IGNORECASE)
PLAIN = re.compile(r"[a-z0-9.-]+|[0-9a-f:]+")


def entries() -> list[str]:
    """What the user allows, as written."""
    return [entry.strip() for entry in os.environ.get(ALLOW, "").split(",") if entry.strip()]


def allowed_hosts() -> set[str]:
    """Hosts and buckets that the user allows; ``https://host.org`` stands for its host."""
    hosts = set()
    for entry in entries():
        if not entry.startswith("/"):
            scheme = scheme_of(entry)
            hosts.add(host_of(entry) if scheme in ("http", "https") else entry.lower().rstrip("/"))
    return hosts - {""}


def allowed_folders() -> list[Path]:
    """Folders that the user allows, links followed."""
    return [Path(entry).resolve() for entry in entries() if entry.startswith("/")]


def scheme_of(address: str) -> str:
    """Scheme of an address in small letters; empty for a path."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", address)
    return match[1].lower() if match else ""


def host_of(address: str) -> str:
    """Host of an address in small letters; empty if it has none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def hosts_in(source: str) -> list[str]:
    """Hosts, and buckets such as ``s3://name``, that GDAL would ask for a source; empty for files on disk.

    A host that is not written plainly is the whole source, which nobody allows by accident.
    """
    found = []
    for text in {source, unquote(source)}:
        for scheme, rest in ADDRESS.findall(text):
            is_web = scheme.lower() in ("http", "https", "ftp")
            host = host_of(f"{scheme}://{rest}") if is_web else f"{scheme.lower()}://{rest.split('/')[0].lower()}"
            found.append(host if not is_web or PLAIN.fullmatch(host) else source)
        found += [f"{kind.lower()}://{bucket.lower()}" for kind, bucket in BUCKET.findall(text)]
    if not found and CURL.search(source):
        found.append(source)
    return sorted(set(found))
