"""One small good input of every kind: what hostile ones are made from, and what a verb is called with beside them."""

import json

import geopandas as gpd
import numpy as np
import shapely
import torch

import geossl
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.encoders.point_transformer import Clouds, PointTransformer, point_spec
from geossl.models.encoders.series_vit import SeriesViT, series_spec
from geossl.models.files import save_encoder
from geossl.models.spec import ImageGeometry
from geossl.sensors import S1_BANDS, S2_BANDS, SensorSpec
from tests.data.conftest import optical, radar, write_raster
from tests.scans import scene, write_scan

LEFT, TOP, SIDE = 500_000, 4_600_000, 96  # of the scene, pixels of 10 m


def rasters(folder):
    """A pair on one grid, labels over it, a region within it, and the series of its optical bands."""
    write_raster(folder / "s1.tif", radar((SIDE, SIDE)), names=S1_BANDS)
    write_raster(folder / "s2.tif", optical((SIDE, SIDE)), names=S2_BANDS, BOA_ADD_OFFSET="0")
    for day in ("20200105", "20200320", "20200610"):
        write_raster(folder / "dates" / f"{day}.tif", optical((SIDE, SIDE)), names=S2_BANDS, BOA_ADD_OFFSET="0")
    rows, columns = np.indices((6, 6))
    x, y = LEFT + 160 * columns.ravel(), TOP - 160 * rows.ravel()
    crops = [("wheat", "water", "forest")[(c + r) % 3] for r, c in zip(rows.ravel(), columns.ravel(), strict=True)]
    fields = gpd.GeoDataFrame(
        {"crop": crops, "ndvi": np.arange(36) / 36.0}, geometry=shapely.box(x, y - 160, x + 160, y)
    )
    fields.set_crs(32631).to_file(folder / "parcels.gpkg")
    region = gpd.GeoDataFrame(geometry=[shapely.box(LEFT + 100, TOP - 860, LEFT + 860, TOP - 100)], crs=32631)
    region.to_crs(4326).to_file(folder / "aoi.geojson")


def encoders(folder):
    """An encoder of every kind of data, with weights that nobody trained."""
    torch.manual_seed(0)
    spec = croma_spec("tiny", window_px=48, margin_px=8, dim=32, depth=1, heads=4)
    save_encoder(folder / "croma.safetensors", CROMAEncoder(spec).eval(), {})
    s2 = SensorSpec(("B04", "B08"), "reflectance", "L2A", (0.08, 0.3), (0.05, 0.1))
    shape, geometry = {"dim": 8, "depth": 1, "heads": 2, "patch_px": 4}, ImageGeometry(window_px=16, margin_px=4)
    save_encoder(folder / "series.safetensors", SeriesViT(series_spec({"s2": s2}, geometry, **shape)).eval(), {})
    shape = {"groups": 16, "group_size": 8, "width": 24, "depth": 3, "heads": 4}
    clouds = Clouds(points=128, features=("last",), block_m=12.0, voxel_m=0.25, ground="auto")
    spec = point_spec("tiny", clouds, **shape)
    save_encoder(folder / "points.safetensors", PointTransformer(spec), {})


def trained(folder):
    """What a verb makes for another: a map, classifiers, an auto-encoder, an encoder of a graph."""
    pair = geossl.Rasters(s1=folder / "s1.tif", s2=folder / "s2.tif")
    croma, labels, scans = folder / "croma.safetensors", folder / "parcels.gpkg", folder / "scans"
    geossl.embed_map(folder / "aoi.geojson", pair, encoder=croma, out=folder / "map.zarr", picture=False)
    geossl.finetune(labels, pair, column="crop", encoder=croma, out=folder / "model.safetensors")
    few = {"train__max_steps": 4, "train__log_every": 2}
    run = geossl.pretrain("regularized_ae", out=str(folder / "ae"), data__count=1000, encoder__hidden=[8], **few)
    (folder / "ae.safetensors").write_bytes((run / "encoder.safetensors").read_bytes())
    graph = {"data__source": str(labels), "data__features": ["ndvi"], "encoder__dim": 4, "encoder__heads": 2}
    run = geossl.pretrain("graphmae", out=str(folder / "graph"), **graph, **few)
    (folder / "graph.safetensors").write_bytes((run / "encoder.safetensors").read_bytes())
    vit = {"encoder__sensors": {"s2": "all"}, "data__chip_px": 32, "encoder__window_px": 32, "encoder__halo_px": 8}
    run = geossl.pretrain("mae", out=str(folder / "mae"), data__batch_size=2, **vit, **few)
    (folder / "mae.safetensors").write_bytes((run / "encoder.safetensors").read_bytes())
    geossl.points.finetune(
        scans, folder / "points.safetensors", out=folder / "points_model.safetensors", max_steps=2, batch_size=8
    )


def make(folder):
    """All of them, in an empty folder."""
    rasters(folder)
    encoders(folder)
    write_scan(folder / "scans" / "scan.las", *scene())
    x = np.random.default_rng(0).integers(1, 4000, (24, 12, 16, 16)).astype(np.uint16)
    names = {"class_names": np.array(["a", "b"]), "bands": np.array(S2_BANDS)}
    np.savez(folder / "set.npz", x=x, y=np.arange(24) % 2, **names)
    (folder / "points.csv").write_text("lon,lat\n3.004,41.546\n3.005,41.545\n")
    catalog = {"type": "Catalog", "id": "empty", "stac_version": "1.0.0", "description": "no scene", "links": []}
    (folder / "items.json").write_text(json.dumps(catalog))
    trained(folder)
    return folder
