"""A small web server for one user on this machine: fixed files, tiles and searches; in label mode, labels, too."""

import json
import math
import re
import secrets
import sys
import tempfile
import webbrowser
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from geossl.errors import InputError, RunError
from geossl.faults import unexpected
from geossl.viewer import posts
from geossl.viewer.base_map import BaseMap

if TYPE_CHECKING:
    from geossl.viewer.session import Session

HOST = "127.0.0.1"
MAX_TOP = 100
STATIC = {  # route -> file and type; nothing else on disk can be asked for
    "/": ("index.html", "text/html; charset=utf-8"),
    "/view.css": ("view.css", "text/css; charset=utf-8"),
    "/view.js": ("view.js", "text/javascript; charset=utf-8"),
    "/label.js": ("label.js", "text/javascript; charset=utf-8"),
    "/leaflet.css": ("leaflet/leaflet.css", "text/css; charset=utf-8"),
    "/leaflet.js": ("leaflet/leaflet.js", "text/javascript; charset=utf-8"),
}
TILE = re.compile(r"/tiles/([a-z0-9-]{1,60})/(\d{1,2})/(\d{1,7})/(\d{1,7})\.png")
MAX_ZOOM = 22
TOKEN = "X-Geossl-Token"
HEADERS = {
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def policy(base: BaseMap | None) -> str:
    """What the page may load: its own files, and images of a base map that was asked for."""
    images = "'self' data:" if base is None else f"'self' data: {base.origin}"
    return f"default-src 'self'; img-src {images}; frame-ancestors 'none'; base-uri 'none'"


class NotFoundError(Exception):
    """No such route."""


class RefusedError(Exception):
    """A request that is not read.

    Args:
        status: Of the response.
        reason: In words.
    """

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """Answer one request."""

    server: "Server"
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "geossl", ""
    timeout = 60

    def do_GET(self) -> None:
        """Answer a question; nothing changes."""
        self.reply(self.find)

    def do_POST(self) -> None:
        """Do what the page of label mode asks for."""
        self.close_connection = True  # a body that is refused is not read
        self.reply(self.change)

    def reply(self, work: Callable[[], tuple[bytes, str]]) -> None:
        """Send what some work gives; mistakes of the caller are 4xx with a reason in JSON."""
        try:
            if not self.is_local():
                self.error(HTTPStatus.FORBIDDEN, "this page is for this machine only; open the address geossl printed")
                return
            self.answer(*work())
        except NotFoundError:
            self.error(HTTPStatus.NOT_FOUND, "no such page")
        except RefusedError as error:
            self.error(error.status, str(error))
        except (InputError, RunError) as error:
            self.error(HTTPStatus.BAD_REQUEST, str(error))
        except ConnectionError:
            self.close_connection = True  # the browser moved on
        except Exception as error:
            print(f"geossl: {unexpected(error, ['view', self.path])}", file=sys.stderr)
            self.error(HTTPStatus.INTERNAL_SERVER_ERROR, "geossl failed; the terminal it was started in names the log")

    def is_local(self) -> bool:
        """Whether the page was asked for by its own name and not by another web site (DNS rebinding, forgery)."""
        port = self.server.server_address[1]
        names = [f"{HOST}:{port}", f"localhost:{port}"]
        is_own = self.headers.get("Origin") in (None, *(f"http://{name}" for name in names))
        is_asked = self.headers.get("Sec-Fetch-Site") in (None, "none", "same-origin")
        return self.headers.get("Host") in names and is_own and is_asked

    def find(self) -> tuple[bytes, str]:
        """Body and content type of a response."""
        url = urlsplit(self.path)
        session = self.server.session
        if url.path in STATIC:
            name, kind = STATIC[url.path]
            return files("geossl.viewer").joinpath("static", *name.split("/")).read_bytes(), kind
        if url.path == "/map.json":
            base = None if self.server.base is None else self.server.base._asdict()
            token = self.server.token if session.labelling else None
            return as_json({**session.describe(), "token": token, "base": base})
        if url.path == "/similar.json":
            return as_json(session.similar(*search(url.query)))
        if tile := TILE.fullmatch(url.path):
            layer = session.layer(tile[1])
            zoom, x, y = (int(n) for n in tile.groups()[1:])
            if layer is not None and zoom <= MAX_ZOOM and x < 2**zoom and y < 2**zoom:
                return layer.tile(zoom, x, y), "image/png"
        raise NotFoundError

    def change(self) -> tuple[bytes, str]:
        """Body and content type of the response to a request that may change labels.

        Other web sites cannot send one: they do not know the token, and JSON and a header of its own need a consent
        that this server never gives.
        """
        labelling = self.server.session.labelling
        if labelling is None or urlsplit(self.path).path != "/label":
            raise NotFoundError
        if not secrets.compare_digest(self.headers.get(TOKEN, "").encode(), self.server.token.encode()):
            raise RefusedError(HTTPStatus.FORBIDDEN, "the page is of another geossl view; load it again")
        if self.headers.get("Content-Type") != "application/json" or "Transfer-Encoding" in self.headers:
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected JSON, whole")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()) or not 0 < int(length[:9]) <= posts.MOST_BYTES:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected 1 to {posts.MOST_BYTES} bytes")
        return as_json(posts.answer(labelling, self.rfile.read(int(length))))

    def answer(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        """Send a response."""
        self.send_response(status)
        if self.close_connection:
            self.send_header("Connection", "close")
        own = {"Content-Security-Policy": policy(self.server.base), "Content-Type": kind}
        for name, value in {**HEADERS, **own, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def error(self, status: HTTPStatus, reason: str) -> None:
        """Send a reason."""
        body, kind = as_json({"error": reason})
        self.answer(body, kind, status)

    def log_message(self, *_: Any) -> None:
        """Stay quiet: the terminal shows the address."""


class Server(ThreadingHTTPServer):
    """Bound to this machine only."""

    daemon_threads = True

    def __init__(self, port: int, base: BaseMap | None = None) -> None:
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            raise InputError(
                f"--port {port} cannot be used ({error.strerror}); choose another, or 0 for a free one"
            ) from None
        self.base = base
        self.session: Session
        self.token = secrets.token_urlsafe()  # known to the page alone

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def handle_error(self, *_: Any) -> None:
        """Ignore connections that break off; show anything else."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, ConnectionError | TimeoutError):
            print(f"geossl: {unexpected(error, ['view'])}", file=sys.stderr)


def search(query: str) -> tuple[float, float, int]:
    """Longitude, latitude and number of places of a query such as ``lon=3.01&lat=41.55&top=10``."""
    values = parse_qs(query, keep_blank_values=True)
    try:
        if set(values) - {"top"} != {"lon", "lat"} or any(len(v) != 1 for v in values.values()):
            raise ValueError
        lon, lat, top = float(values["lon"][0]), float(values["lat"][0]), int(values.get("top", ["10"])[0])
    except ValueError:
        raise InputError("expected numbers lon=..&lat=.., and perhaps top=..") from None
    if not (math.isfinite(lon) and abs(lon) <= 180 and math.isfinite(lat) and abs(lat) <= 90):
        raise InputError("lon must be in -180 to 180 and lat in -90 to 90")
    if not 1 <= top <= MAX_TOP:
        raise InputError(f"top must be in 1 to {MAX_TOP}")
    return lon, lat, top


def as_json(values: dict[str, Any]) -> tuple[bytes, str]:
    """Body and type of a JSON response."""
    return json.dumps(values, allow_nan=False).encode(), "application/json"


def view(
    name: str,
    opened: "Callable[[Path], Session]",
    port: int,
    browser: bool,
    report: Callable[[str], None],
    base: BaseMap | None = None,
) -> None:
    """Serve the page until Ctrl-C; see ``geossl.view``.

    Args:
        name: Of what is read.
        opened: Opens it, given a folder for temporary rasters.
        port: Of this machine.
        browser: Open the page.
        report: Gets what there is to say.
        base: Tiles of others.
    """
    with Server(port, base) as server, tempfile.TemporaryDirectory(prefix="geossl-view-") as folder:
        try:
            report(f"view  reading {name}")
            server.session = opened(Path(folder))
            report(f"view  {server.url}  (Ctrl-C stops)")
            if browser:
                webbrowser.open(server.url)
            server.serve_forever()
        except KeyboardInterrupt:
            report("stopped")
