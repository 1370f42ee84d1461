"""Maps in a notebook: opened with the layers that were stored beside the vectors, and laid over a web map (folium)."""

import html
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import odc.geo.xr  # noqa: F401  (adds the .odc accessor)
import rioxarray
import xarray as xr
from jaxtyping import UInt8
from rasterio.errors import NotGeoreferencedWarning

from geossl.errors import InputError, needs
from geossl.inference.outputs import raster
from geossl.inference.outputs.description import LAYERS, TIME
from geossl.viewer.layers import COLOUR_BAR, Layer, colour, colours, open_layer

LONGEST_PX = 2048  # of a picture on a web map
NO_DAY = np.datetime64("2000-01-01")  # what 0 stands for in the layer ``date``
KEPT = ("long_name", "units", "flag_masks", "flag_meanings")
SHOWN = [name for name in LAYERS if name != "scales"]
CORNER = "position:fixed;bottom:24px;left:12px;z-index:900"  # of the map, where legends are
BOX = "background:#fffd;margin-top:6px;padding:6px 10px;font:13px sans-serif"


@overload
def open_map(
    path: str | Path,
    gsd_m: float | None = None,
    level: int = 0,
    time: str | None = None,
    *,
    layers: Literal[False] = False,
) -> xr.DataArray: ...


@overload
def open_map(
    path: str | Path, gsd_m: float | None = None, level: int = 0, time: str | None = None, *, layers: Literal[True]
) -> xr.Dataset: ...


def open_map(
    path: str | Path, gsd_m: float | None = None, level: int = 0, time: str | None = None, *, layers: bool = False
) -> xr.DataArray | xr.Dataset:
    """Open an embedding map lazily.

    In a notebook, ``.geossl.explore()`` of a map, or of what ``geossl.similar`` gives, lays it over a web map.

    Args:
        path: ``.zarr`` store or ``.tif`` written by ``geossl embed``, on disk or at ``s3://``, ``gs://``, ``https://``.
        gsd_m: Show it on finer cells, e.g. 10, by bilinear interpolation: smoother, not more detailed; nothing is
            stored. It must divide the map's cell.
        level: Of the overviews in a large ``.zarr`` map; each has half the rows and columns of the one before.
        time: Of a map of several dates (``embed --every``) the one that is wanted, ``2023-06``; all by default.
        layers: Give a Dataset that also holds what a ``.zarr`` map knows of each patch, on its own cells: ``valid``
            (usable pixels, per cent), ``sensors`` (flags: what it was made from), and of maps from a catalogue
            ``date`` (of the Sentinel-2 scene; NaT where there is none).

    Returns:
        ``(embedding, y, x)``, of several dates ``(time, embedding, y, x)``: float32 Dask array with CRS and grid
        (``.odc.geobox``, ``.rio.crs``); NaN = nodata; int8 stores are decoded. ``.rio.to_raster`` names the bands e000,
        e001, ... by its attribute ``long_name``, which some of the bands alone must be given anew
        (``.assign_attrs(long_name=...)``), as in all of rioxarray. With ``layers`` a Dataset, whose ``embeddings``
        these are.

    Raises:
        MissingFileError: If there is nothing at ``path``.
        InputError: If it is not an embedding map, or has no layers.
        GridError: If ``gsd_m`` does not fit.
    """
    embeddings = raster.open_map(path, gsd_m, level, time)
    if not layers:
        return embeddings
    if gsd_m is not None or level:
        raise InputError("--layers are those of the map's own cells; leave out --gsd and --level")
    if str(path).endswith(".tif"):
        raise InputError(f"{path} holds vectors alone; --layers are stored in .zarr maps")
    stored = raster.layers_beside(path, time)
    beside = {name: stored[name].drop_attrs(deep=False) for name in SHOWN if name in stored}
    for name, layer in beside.items():
        layer.attrs = {key: stored[name].attrs[key] for key in KEPT if key in stored[name].attrs}
    if "date" in beside:
        beside["date"] = beside["date"].where(beside["date"] > NO_DAY)
    return xr.Dataset({"embeddings": embeddings, **beside})


@xr.register_dataarray_accessor("geossl")
class Shown:
    """What geossl adds to an array with a place: ``array.geossl.explore()``.

    Args:
        array: A map ``(embedding, y, x)``, or numbers ``(y, x)`` such as similarities.
    """

    def __init__(self, array: xr.DataArray) -> None:
        self.array = array

    def explore(self, map: Any = None, **options: Any) -> Any:
        """Lay the array over a web map: vectors as false colours (alike is alike), numbers along a colour bar.

        Args:
            map: A ``folium.Map`` to add it to, such as ``frame.explore()`` of geopandas gives; by default a new one.
            options: Of ``.odc.explore``: ``tiles`` and ``attr`` (the base map), ``opacity``, ``name``; of numbers
                ``cmap``, ``vmin``, ``vmax``.

        Returns:
            The ``folium.Map``.

        Raises:
            InputError: If the array has other axes or no place, or folium is not installed.
        """
        array = self.array
        if array.dims not in (("embedding", "y", "x"), ("y", "x")):
            hint = "; choose a date with .isel(time=0)" if TIME in array.dims else ""
            raise InputError(f"the array has axes {array.dims}; expected (embedding, y, x) or (y, x){hint}")
        if array.odc.geobox is None or array.odc.crs is None:
            raise InputError("the array does not know its place; add a CRS with .odc.assign_crs")
        if array.ndim == 2:
            low, high = (float(v) for v in np.nanquantile(array, [0.02, 0.98]))
            bar = {"cmap": COLOUR_BAR, "vmin": low, "vmax": high, "name": str(array.name or "values"), **options}
            found = laid(array.astype(np.float32), map, bar)
            return with_legend(found, bar_html(bar))
        from geossl.inference.outputs.quicklook import false_colour  # lazy: scikit-learn; opening does without

        step = max(1, -(-max(array.shape[1:]) // LONGEST_PX))
        thin = array[:, ::step, ::step]
        return laid(coloured(false_colour(thin.values, 0), thin), map, {"name": "embedding", **options})


def explore_file(path: Path, map: Any = None, **options: Any) -> Any:
    """Lay a raster that geossl wrote over a web map, in its own colours; see ``Shown.explore``.

    Raises:
        InputError: If it is not a raster, or folium is not installed.
    """
    if path.suffix == ".zarr":
        return open_map(path).geossl.explore(map, **options)
    layer = open_layer(path)
    with rioxarray.open_rasterio(path, masked=False) as opened:  # type: ignore[union-attr]
        step = max(1, -(-max(opened.shape[1:]) // LONGEST_PX))
        bands = opened[:, ::step, ::step].load()
    nodata = bands.rio.nodata
    opaque = np.ones(bands.shape[1:], bool) if nodata is None else np.asarray(bands[0] != nodata)
    rgba = layer.paint(np.concatenate([bands.values, 255 * opaque[None].astype(bands.dtype)]))
    return with_legend(laid(coloured(rgba, bands), map, {"name": layer.name, **options}), legend(layer))


def laid(array: xr.DataArray, map: Any, options: dict[str, Any]) -> Any:
    """An array on a web map, by odc-geo."""
    if find_spec("folium") is None:
        raise needs("notebook")
    name = escaped(str(options["name"]))
    with warnings.catch_warnings():  # of rasterio, about an array in memory whose place odc-geo keeps itself
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        found = array.odc.explore(map, layer_control=False, **{**options, "name": name})
    from folium import LayerControl  # lazy: an extra

    control = next((child for child in found._children.values() if isinstance(child, LayerControl)), LayerControl())
    found.add_child(control)
    found._children.move_to_end(control.get_name())  # its script must come after the layers it lists
    return found


def escaped(text: str) -> str:
    """Text as folium's pages take it: they put it in as HTML, and are templates of Jinja."""
    return html.escape(text).replace("{", "&#123;")


def coloured(rgba: UInt8[np.ndarray, "h w 4"], like: xr.DataArray) -> xr.DataArray:
    """Colours at the places of an array."""
    coords = {"y": like["y"], "x": like["x"], "band": [*"rgba"]}
    return xr.DataArray(rgba, coords, ("y", "x", "band")).odc.assign_crs(like.odc.crs)


def legend(layer: Layer) -> str:
    """What the colours of a layer mean."""
    said = layer.describe()
    if layer.kind == "classes":
        rows = [swatch(entry["colour"], entry["name"]) for entry in said["classes"]]
        return "<br>".join([f"<b>{html.escape(layer.name)}</b>", *rows])
    return ramp_html(layer.name, said["stops"], layer.low, layer.high, layer.note) if layer.kind == "values" else ""


def swatch(hue: str, name: str) -> str:
    """A colour and what it stands for."""
    return f'<span style="display:inline-block;width:12px;height:12px;background:{hue}"></span> {html.escape(name)}'


def bar_html(bar: dict[str, Any]) -> str:
    """The legend of numbers."""
    stops = [colour(rgba) for rgba in colours(bar["cmap"], 9)] if isinstance(bar["cmap"], str) else []
    return ramp_html(bar["name"], stops, bar["vmin"], bar["vmax"])


def ramp_html(name: str, stops: list[str], low: float, high: float, note: str = "") -> str:
    """A colour bar with its ends."""
    strip = f'<div style="height:10px;width:160px;background:linear-gradient(to right,{",".join(stops)})"></div>'
    ends = (
        f'<div style="display:flex;justify-content:space-between"><span>{low:.3g}</span><span>{high:.3g}</span></div>'
    )
    return f"<b>{html.escape(name)}</b>{strip if stops else ''}{ends}{html.escape(note)}"


def with_legend(map: Any, text: str) -> Any:
    """A web map with a legend in its corner, above those it has."""
    if text:
        from branca.element import Element  # lazy: comes with folium

        corner = map.get_root().html
        boxes = [*getattr(corner, "geossl_legends", ()), f'<div style="{BOX}">{text}</div>']
        corner.geossl_legends = boxes
        whole = f'<div style="{CORNER}">{"".join(boxes)}</div>'.replace("{", "&#123;")  # as in escaped()
        corner.add_child(Element(whole), name="geossl_legends")
    return map
