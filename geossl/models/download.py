"""Download weights: pinned, hash-checked, resumable, cached; a cached file is checked again whenever it is used."""

import hashlib
import os
import re
import urllib.error
import urllib.request
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from geossl.errors import MissingFileError, Note, UnknownNameError, WeightsError, possible

CHUNK = 2**20


@dataclass(frozen=True)
class ReleasedWeights:
    """A file somebody published.

    Args:
        url: With a pinned revision; empty for weights of our own, which are bundled.
        sha256: SHA-256 of the whole file, or its beginning where no more is published.
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
GALILEO_LARGER = "https://hf.co/isaaccorley/galileo/resolve/09adbfeaffc50a4817578abca4c9e3a1723d571d"  # as torchgeo
PRESTO = "https://github.com/nasaharvest/presto/raw/13173d028f035abcbcc3b13829314323a5c15d02/data"
BUNDLED = Path(__file__).parent / "weights"
ENCODERS: dict[str, ReleasedWeights] = {
    "croma_tiny": ReleasedWeights(
        "",
        "4d9c8c20f0b37039bf8cad3efe4bbaafca5f3107c4309476f38037327414f49d",
        "croma_tiny.safetensors",
        "MIT",
        bundled="croma_tiny.safetensors",
    ),
    "galileo_nano": ReleasedWeights(
        f"{GALILEO}/nano/encoder.pt",
        "eab6acacf527886a508a555bc24efe4b4a2cf91b162e84cd1c4a1807e942180c",
        "galileo_nano_encoder.pt",
        "MIT",
        bundled="galileo_nano.safetensors",
    ),
    "galileo_tiny": ReleasedWeights(  # torchgeo states eight digits of the hash, in the file's name
        f"{GALILEO_LARGER}/model_tiny-4f414eea.pth", "4f414eea", "galileo_tiny-4f414eea.pth", "MIT"
    ),
    "galileo_base": ReleasedWeights(
        f"{GALILEO_LARGER}/model_base-7f15d404.pth", "7f15d404", "galileo_base-7f15d404.pth", "MIT"
    ),
    "presto": ReleasedWeights(
        f"{PRESTO}/default_model.pt",
        "559c9d76f525bdf2dd3774da8b1e7f1510769b73baacac12e9e4d8d5c67fbe65",
        "presto_default_model.pt",
        "MIT",
        bundled="presto.safetensors",
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


def is_downloaded(name: str) -> bool:
    """Whether a name stands for weights that are not in the wheel and may have to be fetched or built first."""
    return (name in ENCODERS and not ENCODERS[name].bundled) or name.startswith(FETCHED)


def cache_folder() -> Path:
    """``$GEOSSL_CACHE``, or ``~/.cache/geossl``."""
    return Path(os.environ.get("GEOSSL_CACHE", Path.home() / ".cache" / "geossl"))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_sha256(path: Path) -> str:
    """``sha256_of``, computed again only if the file has changed since."""
    state = path.stat()
    return sha256_at(path.absolute(), (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=64)
def sha256_at(path: Path, version: tuple[int, int, int]) -> str:
    """SHA-256 of a file as it is at ``version``."""
    return sha256_of(path)


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
        if known_sha256(target).startswith(weights.sha256):
            return target
        text = f"{target} is damaged (its SHA-256 does not begin with {weights.sha256[:12]}); it is downloaded again"
        warnings.warn(text, Note, stacklevel=2)
        target.unlink()
    part = target.with_suffix(f".{weights.sha256[:8]}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        fetch(weights.url, part)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(
            f"cannot download {weights.url} ({reason}); on a machine without internet, put the file at {target} "
            f"(SHA-256 {'' if len(weights.sha256) == 64 else 'beginning '}{weights.sha256}) or give its path"
        ) from None
    if not (found := sha256_of(part)).startswith(weights.sha256):
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


FETCHED = ("hf:", "terratorch:", "timm:", "torchgeo:")  # beginnings of names that are not of ENCODERS
HUB_NAME = re.compile(r"(?P<owner>[\w.-]+)/(?P<repo>[\w.-]+)/(?P<file>[\w./-]+)@(?P<revision>[^#]+)(#(?P<sha256>.+))?")


def from_hub(name: str) -> Path:
    """A file of a repository on Hugging Face, at a pinned revision.

    Args:
        name: ``owner/repo/file.safetensors@revision#sha256``: all 40 digits of a commit, and the file's SHA-256, which
            may be left out where the server states it. ``$HF_ENDPOINT`` names another server.

    Raises:
        WeightsError: If the name is not of that form, the file is of another kind, or it cannot be downloaded.
    """
    found = HUB_NAME.fullmatch(name)
    if found is None:
        raise WeightsError(f"hf:{name} is not of the form hf:owner/repo/file.safetensors@revision")
    owner, repo, file, revision, sha256 = (found[key] or "" for key in ("owner", "repo", "file", "revision", "sha256"))
    if not file.endswith(".safetensors") or ".." in file.split("/"):
        raise WeightsError(f"hf:{name} names {file}; only .safetensors are downloaded, as other files may run code")
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise WeightsError(f"hf:{name}: revision {revision!r} can move; write the 40 digits of a commit")
    server = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{server}/{owner}/{repo}/resolve/{revision}/{file}"
    target = "_".join(("hf", owner, repo, revision[:12], file.replace("/", "_")))
    note = cache_folder() / f"{target}.sha256"
    if not sha256 and note.is_file():
        sha256 = note.read_text().strip()
    sha256 = sha256 or stated_sha256(url)
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise WeightsError(f"hf:{name}: {sha256!r} is not a SHA-256; expected its 64 digits after the #")
    path = download(ReleasedWeights(url, sha256, target, "not stated"))
    note.write_text(sha256)
    return path


def stated_sha256(url: str) -> str:
    """SHA-256 that a server of Hugging Face states of a large file.

    Raises:
        WeightsError: If it cannot be reached, or does not say.
    """
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.build_opener(NoRedirect).open(request, timeout=30) as head:
            headers = head.headers
    except urllib.error.HTTPError as error:
        headers = error.headers
        if error.code >= 400:
            raise WeightsError(f"cannot download {url} ({error.reason}); look at its name and revision") from None
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(
            f"cannot download {url} ({reason}); on a machine without internet, download it elsewhere and give its path"
        ) from None
    tag = str(headers.get("X-Linked-Etag") or headers.get("ETag") or "").strip('"')
    if not re.fullmatch(r"[0-9a-f]{64}", tag):
        raise WeightsError(f"the server does not state the SHA-256 of {url}; write it after the name: ...#SHA256")
    return tag


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves redirects to the caller: the hash is stated by the first answer, the bytes come from another server."""

    def redirect_request(self, *arguments: object) -> None:
        """Follow none."""


REFUSED = {  # endings of files that are code, or run code when they are read
    ".py": "is Python code; geossl runs no code of others: wrap the network yourself with geossl.wrap",
    ".pkl": "is a pickle, which may run code; save the weights as .safetensors",
    ".pickle": "is a pickle, which may run code; save the weights as .safetensors",
    ".joblib": "is a pickle, which may run code; save the weights as .safetensors",
    ".onnx": "is for other runtimes; export a .pt2 beside it, which --encoder takes",
}


def check_readable(path: Path) -> None:
    """Refuse a file that the system does not let us read.

    Raises:
        WeightsError: Why.
    """
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise WeightsError(f"encoder file {str(path)!r} cannot be read ({error.strerror})") from None


def encoder_path(name_or_path: str | Path) -> Path:
    """The local weight file of a released name or path; downloads a name's file if it is not cached.

    Raises:
        UnknownNameError: If it is neither a name nor a path.
        MissingFileError: If the file does not exist.
        WeightsError: If it cannot be downloaded, or is a file that runs code.
    """
    path = possible(name_or_path, "encoder")
    if reason := REFUSED.get(path.suffix.lower()):
        raise WeightsError(f"encoder {str(path)!r} {reason}")
    if path.is_file():
        check_readable(path)
        return path
    if str(name_or_path).startswith("hf:"):
        return from_hub(str(name_or_path).removeprefix("hf:"))
    if str(name_or_path) in ENCODERS:
        return download(ENCODERS[str(name_or_path)])
    if path.is_dir():
        raise WeightsError(f"encoder {str(path)!r} is a folder; name a weight file, such as encoder.safetensors")
    if path.suffix or len(path.parts) > 1:
        raise MissingFileError(f"encoder file {str(path)!r} does not exist")
    raise UnknownNameError("encoder", str(name_or_path), ENCODERS)
