"""How GIS software shows a raster: QGIS styles (``.qml``) beside it, and names of classes in ``.aux.xml``.

QGIS takes a style named like the raster by itself. GDAL, and what is built on it, reads names of classes (categories)
and their attribute table from the sidecar, since a GeoTIFF has no place for them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import rasterio
from matplotlib.colors import Colormap, to_hex

from geossl.outputs import write_text

DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
VERSION = "3.22"  # of QGIS whose form this is; later ones read it
SPREAD = tuple(f"STATISTICS_{name}" for name in ("MINIMUM", "MAXIMUM", "MEAN", "STDDEV"))
STOPS = 21  # of a colour ramp
FIELDS = (("value", 0, 0), ("class", 2, 2), ("red", 0, 6), ("green", 0, 7), ("blue", 0, 8))  # GDAL's types and usages


def style_path(raster: Path) -> Path:
    """Where the style of a raster goes."""
    return raster.with_suffix(".qml")


def style(renderer: dict[str, Any], *children: ElementTree.Element) -> str:
    """A QGIS style with one renderer."""
    root = ElementTree.Element("qgis", version=VERSION, styleCategories="AllStyleCategories")
    pipe = ElementTree.SubElement(root, "pipe")
    found = element("rasterrenderer", opacity=1, alphaBand=-1, nodataColor="", **renderer)
    found.extend([element("rasterTransparency"), *children])
    pipe.extend([found, element("brightnesscontrast", brightness=0, contrast=0), element("rasterresampler")])
    root.append(element("blendMode", text="0"))
    ElementTree.indent(root)
    return DOCTYPE + ElementTree.tostring(root, encoding="unicode") + "\n"


def element(tag: str, text: str | None = None, **attributes: Any) -> ElementTree.Element:
    """An element of XML."""
    found = ElementTree.Element(tag, {key: str(value) for key, value in attributes.items()})
    found.text = text
    return found


def write_class_style(raster: Path, names: Sequence[str], colours: Sequence[str]) -> None:
    """Style of a raster of classes 0, 1, ...: a colour and a name each.

    Args:
        raster: The ``.tif``.
        names: One per class.
        colours: One ``#rrggbb`` per class.
    """
    palette = element("colorPalette")
    for value, (name, colour) in enumerate(zip(names, colours, strict=True)):
        palette.append(element("paletteEntry", value=value, color=colour, label=name, alpha=255))
    write_text(style_path(raster), style({"type": "paletted", "band": 1}, palette))


def write_value_style(raster: Path, low: float, high: float, colours: str | Colormap, *, band: int = 1) -> None:
    """Style of a raster of values: a colour ramp from ``low`` to ``high``; beyond, the colours of its ends.

    Args:
        raster: The ``.tif``.
        low: Value of the first colour.
        high: Value of the last.
        colours: A colour map of matplotlib, or its name.
        band: The one shown, from 1.
    """
    table = matplotlib.colormaps[colours] if isinstance(colours, str) else colours
    ramp = element("colorrampshader", colorRampType="INTERPOLATED", classificationMode=1, clip=0)
    ramp.attrib |= {"minimumValue": f"{low:.7g}", "maximumValue": f"{high:.7g}"}
    for share in np.linspace(0, 1, STOPS):
        value = low + share * (high - low)
        ramp.append(element("item", value=f"{value:.7g}", color=to_hex(table(share)), label=f"{value:.4g}", alpha=255))
    shader = element("rastershader")
    shader.append(ramp)
    limits = {"classificationMin": f"{low:.7g}", "classificationMax": f"{high:.7g}"}
    write_text(style_path(raster), style({"type": "singlebandpseudocolor", "band": band, **limits}, shader))


def write_vector_style(raster: Path) -> None:
    """Style of a raster of embeddings: its first three numbers as red, green and blue.

    Args:
        raster: The ``.tif``, with the statistics that every raster here is written with.
    """
    names = ("red", "green", "blue")
    parts = []
    for colour, (low, high) in zip(names, shown_ranges(raster, len(names)), strict=True):
        part = element(f"{colour}ContrastEnhancement")
        part.extend([element("minValue", f"{low:.7g}"), element("maxValue", f"{high:.7g}")])
        part.append(element("algorithm", "StretchToMinimumMaximum"))
        parts.append(part)
    write_text(
        style_path(raster), style({"type": "multibandcolor", "redBand": 1, "greenBand": 2, "blueBand": 3}, *parts)
    )


def shown_ranges(raster: Path, count: int) -> list[tuple[float, float]]:
    """Two standard deviations around the mean of the first bands, by a file's own statistics, scaled as QGIS does."""
    found = []
    with rasterio.open(raster) as file:
        for band in range(1, count + 1):
            tags = {key: float(value) for key, value in file.tags(min(band, file.count)).items() if key in SPREAD}
            low, high, mean, std = (tags.get(key, 0.0) for key in SPREAD)
            scale, offset = (values[min(band, file.count) - 1] for values in (file.scales, file.offsets))
            stored = max(low, mean - 2 * std), min(high, mean + 2 * std)
            found.append((stored[0] * scale + offset, stored[1] * scale + offset))
    return found


def write_categories(raster: Path, names: Sequence[str], colours: Sequence[str]) -> None:
    """Names of classes 0, 1, ... as GDAL's categories and attribute table, in ``.tif.aux.xml``.

    Args:
        raster: The ``.tif``.
        names: One per class.
        colours: One ``#rrggbb`` per class.
    """
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    categories = ElementTree.SubElement(band, "CategoryNames")
    categories.extend([element("Category", name) for name in names])
    table = ElementTree.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(FIELDS):
        field = ElementTree.SubElement(table, "FieldDefn", index=str(index))
        field.extend([element("Name", name), element("Type", str(kind)), element("Usage", str(usage))])
    for value, (name, colour) in enumerate(zip(names, colours, strict=True)):
        row = ElementTree.SubElement(table, "Row", index=str(value))
        rgb = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        row.extend([element("F", str(cell)) for cell in (value, name, *rgb)])
    ElementTree.indent(root)
    write_text(raster.with_name(f"{raster.name}.aux.xml"), ElementTree.tostring(root, encoding="unicode") + "\n")
