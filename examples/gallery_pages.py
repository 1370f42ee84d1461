"""The gallery's pictures of pages, by a headless Chromium: python examples/gallery_pages.py OUT [RUN].

Leaves ``label.png`` (label mode with 45 patches that a land-cover map names), and ``run.png`` of the folder of a run,
in OUT, with the map it shows. Needs Chromium or Chrome on the path, or its file in the environment variable
``CHROMIUM``; everything else comes with geossl.
"""

import base64
import fcntl
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import odc.geo.xr  # noqa: F401  (adds the .odc accessor)
import rasterio
import shapely
from PIL import Image

import geossl

COVER = Path(geossl.__file__).parent / "data/sample/labels/433D_629L_3_1_20200408.tif"
NAMES = {4: "crops", 5: "built", 2: "trees", 9: "rangeland", 1: "water"}
EACH = 9  # patches labelled of every class
PROGRAMS = "chromium", "chromium-browser", "google-chrome", "chrome"
WIDTH = 1280


class Page:
    """A page of a headless Chromium that is told over a pipe what to do.

    Args:
        program: The browser.
        url: What to open.
        height: Of the window, px.
    """

    def __init__(self, program: str, url: str, height: int = 800) -> None:
        self.count, self.session = 0, ""
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for pipe in (os.pipe(), os.pipe()) for end in pipe]
        flags = ["--headless=new", "--no-sandbox", "--hide-scrollbars", "--remote-debugging-pipe"]
        self.process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={self.profile.name}"],
            preexec_fn=lambda: (os.dup2(ends[0], 3), os.dup2(ends[3], 4)),  # where Chromium reads and writes
            pass_fds=(3, 4),
            stderr=subprocess.DEVNULL,
        )
        self.read, self.write = os.fdopen(ends[2], "rb"), os.fdopen(ends[1], "wb")
        for end in (ends[0], ends[3]):
            os.close(end)
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.ask("Page.navigate", url=url)

    def ask(self, method: str, **asked: Any) -> dict[str, Any]:
        """Give an order and wait for its answer."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": asked}
        self.write.write(json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        self.write.flush()
        while True:
            text = b"".join(iter(lambda: self.read.read(1), b"\0"))
            answer = json.loads(text)
            if answer.get("id") == self.count:
                if "error" in answer:
                    sys.exit(f"the browser says: {answer['error']['message']}")
                return answer["result"]

    def until(self, expression: str, seconds: float = 120) -> None:
        """Wait until JavaScript on the page says yes."""
        end = time.monotonic() + seconds
        while not self.ask("Runtime.evaluate", expression=expression)["result"].get("value"):
            if time.monotonic() > end:
                sys.exit(f"the page does not get there within {seconds:g} s: {expression}")
            time.sleep(0.3)

    def save(self, out: Path) -> None:
        """Write what is seen, once pictures have had a moment to appear, and close the browser."""
        time.sleep(2)
        taken = base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])
        Image.open(io.BytesIO(taken)).convert("RGB").quantize(128).save(out, optimize=True)
        self.process.terminate()
        self.process.wait()
        print(f"picture    {out}")


def chromium() -> str:
    """The browser, or the end."""
    named = os.environ.get("CHROMIUM")
    found = next(filter(None, map(shutil.which, [named] if named else PROGRAMS)), None)
    return found or sys.exit("no Chromium found; install it, or name its file in the variable CHROMIUM")


def served(map_path: Path, **more: Any) -> str:
    """Serve a map's page until the end of the script; returns its address."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    asked = {"port": port, "browser": False} | more
    threading.Thread(target=geossl.view, args=(map_path,), kwargs=asked, daemon=True).start()
    for _ in range(600):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return f"http://127.0.0.1:{port}/"
        time.sleep(0.1)
    sys.exit("the page was not served within a minute")


def outline(raster: Path, out: Path) -> Path:
    """Ground of a raster, as GeoJSON."""
    with rasterio.open(raster) as file:
        ground = gpd.GeoSeries([shapely.box(*file.bounds)], crs=file.crs)
    ground.to_crs(4326).to_file(out, driver="GeoJSON")
    return out


def labels(map_path: Path, out: Path) -> Path:
    """Polygons of ``EACH`` patches per class, drawn from those that lie in one class of the land cover."""
    grid = geossl.open(map_path).odc.geobox
    step = grid.resolution.x
    with rasterio.open(COVER) as file:
        cover, origin, size = file.read(1), (file.bounds.left, file.bounds.top), file.res[0]
    drawn = np.random.default_rng(0).permutation(grid.shape[0] * grid.shape[1])
    left, top = grid.affine.c, grid.affine.f
    rows: list[tuple[str, shapely.Polygon]] = []
    for row, column in zip(*np.unravel_index(drawn, grid.shape), strict=True):
        x, y = left + column * step, top - row * step
        first = [round((origin[1] - y) / size), round((x - origin[0]) / size)]
        pixels = cover[max(0, first[0]) : first[0] + 4, max(0, first[1]) : first[1] + 4]
        name = NAMES.get(int(pixels.flat[0])) if pixels.size == 16 and np.ptp(pixels) == 0 else None
        if name and sum(known == name for known, _ in rows) < EACH:
            rows.append((name, shapely.box(x, y - step, x + step, y)))
    rows.sort(key=lambda row: [*NAMES.values()].index(row[0]))
    frame = gpd.GeoDataFrame({"class": [name for name, _ in rows]}, geometry=[shape for _, shape in rows], crs=grid.crs)
    frame.to_file(out, layer="labels")
    return out


def label_page(program: str, folder: Path) -> None:
    """Label mode over true colour, with the curve of labels."""
    region, map_path = outline(COVER, folder / "outline.geojson"), folder / "map.zarr"
    if not map_path.exists():
        geossl.embed_map(region, geossl.Rasters(s2="sample"), out=map_path, gsd_m=40, picture=False)
    page = Page(program, served(map_path, label=labels(map_path, folder / "labels.gpkg")))
    page.until("document.querySelectorAll('#classes li').length > 5")
    page.until("document.getElementById('more').click() || true")
    page.until("document.querySelector('#curve svg') !== null")
    page.until("document.querySelector('.leaflet-control-zoom-in').click() || true")
    page.save(folder / "label.png")


def main(out: str, run: str | None = None) -> None:
    """Draw them."""
    program, page = chromium(), None if run is None else (Path(run) / "run.html").resolve().as_uri()
    Path(out).mkdir(parents=True, exist_ok=True)
    os.chdir(out)  # pages say the names of files, not where they lie
    folder = Path()
    if page is not None:
        Page(program, page, 1000).save(folder / "run.png")
    label_page(program, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
