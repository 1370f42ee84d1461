"""Download released weights: pinned, hash-checked, resumable, cached."""

import hashlib
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from geossl.errors import MissingFileError, UnknownNameError, WeightsError

CHUNK = 2**20


@dataclass(frozen=True)
class ReleasedWeights:
    """A file somebody published.

    Args:
        url: With a pinned revision.
        sha256: Of the whole file.
        file: Its name in the cache.
        licence: As its authors state it.
        bundled: Name of the file that comes with geossl; then nothing is downloaded.
    """

    url: str
    sha256: str
    file: str
    licence: str
    bundled: str = ""


CROMA = "https://huggingface.co/antofuller/CROMA/resolve/0dd28e3d633bd6715856ae9890e8c49360040598"
GALILEO = "https://github.com/nasaharvest/galileo/raw/0f0b5b95ac81acef4b74cf4686dc877202f4541b/data/models"
BUNDLED = Path(__file__).parent / "weights"
ENCODERS: dict[str, ReleasedWeights] = {
    "galileo_nano": ReleasedWeights(
        f"{GALILEO}/nano/encoder.pt",
        "eab6acacf527886a508a555bc24efe4b4a2cf91b162e84cd1c4a1807e942180c",
        "galileo_nano_encoder.pt",
        "MIT",
        bundled="galileo_nano.safetensors",
    ),
    "croma_base": ReleasedWeights(
        f"{CROMA}/CROMA_base.pt",
        "0238d814b53108f3574bf1ea240e38a0a6edd46173816d9a6962070561893b63",
        "CROMA_base.pt",
        "MIT",
    ),
    "croma_large": ReleasedWeights(
        f"{CROMA}/CROMA_large.pt",
        "921e69ad4069201298bb5c860dc332f31e0cb01df6864f294a79fa8f921915a7",
        "CROMA_large.pt",
        "MIT",
    ),
}


def cache_folder() -> Path:
    """``$GEOSSL_CACHE``, or ``~/.cache/geossl``."""
    return Path(os.environ.get("GEOSSL_CACHE", Path.home() / ".cache" / "geossl"))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(weights: ReleasedWeights, folder: Path | None = None) -> Path:
    """Return the bundled or cached file, fetching it first if needed; a broken download resumes where it stopped.

    Args:
        weights: What to fetch.
        folder: Cache folder; ``cache_folder()`` by default.

    Raises:
        WeightsError: If the server cannot be reached or the file's hash is not the pinned one.
    """
    if weights.bundled and folder is None:
        return BUNDLED / weights.bundled
    target = (folder or cache_folder()) / weights.file
    if target.is_file():
        return target
    part = target.with_suffix(f".{weights.sha256[:8]}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        fetch(weights.url, part)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(
            f"cannot download {weights.url} ({reason}); on a machine without internet, put the file at {target} "
            f"(SHA-256 {weights.sha256}) or give its path"
        ) from None
    if (found := sha256_of(part)) != weights.sha256:
        part.unlink()
        raise WeightsError(
            f"{weights.url} has SHA-256 {found}, expected {weights.sha256}; it was deleted, try again later"
        )
    os.replace(part, target)
    return target


def fetch(url: str, part: Path) -> None:
    """Append what is missing of ``url`` to ``part``."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is missing; the hash decides
            return
        raise
    with response:
        expected = int(response.headers.get("Content-Length", -1))
        got = 0
        with part.open("ab" if response.status == 206 else "wb") as file:
            while block := response.read(CHUNK):
                got += file.write(block)
    if 0 <= expected != got:
        raise OSError(f"connection closed after {got} of {expected} bytes; run again to resume")


def encoder_path(name_or_path: str | Path) -> Path:
    """The local weight file of a released name or path; downloads a name's file if it is not cached."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    if str(name_or_path) in ENCODERS:
        return download(ENCODERS[str(name_or_path)])
    if path.suffix or len(path.parts) > 1:
        raise MissingFileError(f"encoder file {str(path)!r} does not exist")
    raise UnknownNameError("encoder", str(name_or_path), ENCODERS)
