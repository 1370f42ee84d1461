"""A catalogue on 127.0.0.1 over real HTTP: STAC API, files with byte ranges, counted requests, faults on demand."""

import json
import random
import re
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import shapely

PAGE = 2  # items per answer, so that paging is always tested


class Server(ThreadingHTTPServer):
    """Serves a folder and a list of items.

    Args:
        folder: Files, under ``/files/``.
        items: STAC items whose hrefs begin with ``{url}``.
    """

    daemon_threads = True
    scheme = "http"

    def __init__(self, folder, items=()):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.items = folder, list(items)
        self.sent, self.requests = Counter(), Counter()
        self.faults, self.rng, self.lock = {}, random.Random(0), threading.Lock()
        self.retry_after = ""  # said with 429 and 503
        self.outage = 0  # so many requests for files and searches more are answered with 503
        self.is_down = False  # the catalogue; its files are there
        self.token = ""  # that a request for a file has to name, ``?sig=``

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def fault(self):
        """Kind of fault of this request, drawn by share; empty = none."""
        with self.lock:
            if self.outage:
                self.outage -= 1
                return "503"
            number = self.rng.random()
        for kind, share in self.faults.items():
            if number < share:
                return kind
            number -= share
        return ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        path = urlparse(self.path)
        if path.path.startswith("/files/"):
            if self.server.token and parse_qs(path.query).get("sig") != [self.server.token]:
                return self.answer(403, b"", {})
            return self.file(path.path.removeprefix("/files/"))
        if self.server.is_down or (self.server.outage and self.server.fault()):
            return self.answer(503, b"", self.wait())
        if path.path == "/":
            return self.json(self.landing())
        if path.path == "/search":
            query = {key: values[0] for key, values in parse_qs(path.query).items()}
            query["collections"] = query.get("collections", "").split(",")
            query["intersects"] = json.loads(query["intersects"]) if "intersects" in query else None
            return self.json(self.search(query))
        return self.send_error(404)

    def do_HEAD(self):
        path = self.server.folder / urlparse(self.path).path.removeprefix("/files/")
        if fault := self.server.fault():
            return self.answer(403 if fault == "403" else 503, b"", {})
        self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(path.stat().st_size))
        return self.end_headers()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.is_down:
            return self.answer(503, b"", self.wait())
        return self.json(self.search(body))

    def wait(self):
        return {"Retry-After": self.server.retry_after} if self.server.retry_after else {}

    def landing(self):
        url = self.server.url
        core = "https://api.stacspec.org/v1.0.0"
        links = [{"rel": "self", "href": url}, {"rel": "root", "href": url}]
        links += [
            {"rel": "search", "href": f"{url}/search", "method": m, "type": "application/geo+json"}
            for m in ("GET", "POST")
        ]
        conforms = [f"{core}/core", f"{core}/item-search"]
        return {
            "type": "Catalog",
            "id": "test",
            "description": "test",
            "stac_version": "1.0.0",
            "links": links,
            "conformsTo": conforms,
        }

    def search(self, query):
        area = shapely.from_geojson(json.dumps(query["intersects"]))
        start, end = query["datetime"].split("/")
        found = [
            item
            for item in self.server.items
            if item["collection"] in query["collections"]
            and start <= item["properties"]["datetime"] <= end
            and shapely.from_geojson(json.dumps(item["geometry"])).intersects(area)
        ]
        first = int(query.get("token", 0))
        links = []
        if first + PAGE < len(found):
            body = {**query, "token": str(first + PAGE)}
            links = [{"rel": "next", "method": "POST", "href": f"{self.server.url}/search", "body": body}]
        text = json.dumps(found[first : first + PAGE]).replace("{url}", self.server.url)
        return {"type": "FeatureCollection", "features": json.loads(text), "links": links}

    def json(self, value):
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/geo+json"})

    def file(self, name):
        path = (self.server.folder / name).resolve()
        if not path.is_relative_to(self.server.folder.resolve()) or not path.is_file():
            return self.send_error(404)
        size = path.stat().st_size
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(match[1]), min(int(match[2] or size - 1), size - 1)) if match else (0, size - 1)
        if first >= size:
            return self.answer(416, b"", {"Content-Range": f"bytes */{size}"})
        with path.open("rb") as file:
            file.seek(first)
            body = file.read(last - first + 1)
        self.server.requests[name] += 1
        fault = self.server.fault()
        if fault in ("503", "403", "429"):
            return self.answer(int(fault), b"", self.wait())
        self.server.sent[name] += len(body)
        headers = {"Content-Range": f"bytes {first}-{last}/{size}", "Accept-Ranges": "bytes"}
        if fault == "truncated":
            self.close_connection = True
            return self.answer(206, body, headers, cut=len(body) // 2)
        return self.answer(206 if match else 200, body, headers)

    def answer(self, status, body, headers, cut=None):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])


@contextmanager
def serving(folder, items=()):
    """A running server."""
    server = Server(folder, items)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
