import json

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import torch
from click.testing import CliRunner
from torch_geometric.data import Data

import geossl
from geossl import recipe
from geossl.api.graphs.build import source_graph
from geossl.api.graphs.embed import agreement, write_nodes
from geossl.cli import main
from geossl.data.graphs.files import read_graph
from geossl.errors import InputError, Note, RecipeError
from geossl.evaluation.heads import Samples
from geossl.evaluation.svm import svm_folds
from geossl.methods.scgc import SCGC
from geossl.models.files import provenance
from geossl.recipe.graphs import Graphs

TINY = ["encoder.dim=4", "encoder.widths=[16]", "objective.autoencoder_steps=150", "train.max_steps=220"]


@pytest.fixture(scope="module")
def parcels(tmp_path_factory):
    """A grid of 12 x 12 fields of 100 m, three crops in bands."""
    rng = np.random.default_rng(0)
    row, column = np.divmod(np.arange(144), 12)
    crop = row // 4
    values = rng.normal(0, 0.3, (144, 5)) + 2 * np.eye(3, 5)[crop]
    places = [
        shapely.box(500_000 + 100 * x, 100 * y, 500_100 + 100 * x, 100 * y + 100)
        for y, x in zip(row, column, strict=True)
    ]
    frame = gpd.GeoDataFrame(values, columns=list("abcde"), geometry=places, crs=32633)
    path = tmp_path_factory.mktemp("parcels") / "parcels.gpkg"
    frame.to_file(path)
    return path, crop


@pytest.fixture(scope="module")
def runs(parcels, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    changes = [f"data.source={parcels[0]}", "data.edges=rook"]
    scgc = recipe.load("scgc", [*changes, "objective.clusters=3", *TINY, f"out={out / 'scgc'}"])
    small = ["encoder.dim=8", "encoder.heads=2", "train.max_steps=20"]
    graphmae = recipe.load("graphmae", [*changes, *small, f"out={out / 'graphmae'}"])
    return {"scgc": geossl.pretrain(scgc), "graphmae": geossl.pretrain(graphmae)}


def test_parcels_are_clustered_by_what_grows_on_them(parcels, runs):
    frame = gpd.read_file(parcels[0])
    graph = geossl.graphs.from_geodataframe(frame, edges="rook", smooth=1)
    found = geossl.graphs.cluster(graph, runs["scgc"] / "encoder.safetensors")
    assert list(found.columns) == ["cluster", "confidence", "margin", "geometry"]
    assert found.crs == frame.crs
    for crop in range(3):
        assert found.cluster[parcels[1] == crop].value_counts(normalize=True).iloc[0] > 0.9
    assert ((found.confidence >= 1 / 3) & (found.margin <= found.confidence)).all()


def test_a_vector_file_is_as_good_as_its_frame(parcels):
    one, two = (geossl.graphs.from_geodataframe(f, edges="rook") for f in (gpd.read_file(parcels[0]), parcels[0]))
    assert torch.equal(one.x, two.x)
    assert torch.equal(one.edge_index, two.edge_index)


@pytest.mark.parametrize(("name", "is_kept"), [("parcel", True), ("fid", False), ("cluster", False), (None, False)])
def test_a_geopackage_keeps_the_index_where_its_name_is_free(parcels, runs, name, is_kept, tmp_path):
    frame = gpd.read_file(parcels[0])
    frame.index = pd.Index(np.arange(144) + 1000, name=name)
    graph = geossl.graphs.from_geodataframe(frame, edges="rook")
    found = geossl.graphs.cluster(graph, runs["scgc"] / "encoder.safetensors")
    assert found.index.equals(frame.index)
    read = gpd.read_file(write_nodes(tmp_path / "c.gpkg", found))
    assert list(read.cluster) == list(found.cluster)
    assert ("parcel" in read) == is_kept
    if is_kept:
        assert list(read.parcel) == list(frame.index)


def test_a_run_knows_its_graph_and_features(parcels, runs):
    metadata = provenance(runs["graphmae"] / "encoder.safetensors")
    assert metadata["data"] == {"nodes": 144, "edges": 264, "source": str(parcels[0])}
    spec = geossl.load_encoder(runs["graphmae"] / "encoder.safetensors").spec
    assert spec.names == tuple("abcde")
    np.testing.assert_allclose(
        geossl.load_encoder(runs["graphmae"] / "encoder.safetensors").mean,
        gpd.read_file(parcels[0])[list("abcde")].mean(),
        atol=1e-5,
    )


def test_embeddings_come_back_with_their_places(parcels, runs):
    graph = geossl.graphs.from_geodataframe(gpd.read_file(parcels[0]), edges="rook")
    found = geossl.graphs.embed(graph, runs["graphmae"] / "encoder.safetensors")
    assert list(found.columns) == [f"e{i:03d}" for i in range(8)] + ["geometry"]
    blocks = geossl.graphs.embed(graph, runs["graphmae"] / "encoder.safetensors", block_nodes=20)
    np.testing.assert_allclose(found.iloc[:, :8], blocks.iloc[:, :8], atol=1e-5)
    bare = Data(x=graph.x, edge_index=graph.edge_index)
    assert not isinstance(geossl.graphs.embed(bare, runs["graphmae"] / "encoder.safetensors"), gpd.GeoDataFrame)


def test_rows_keep_the_index_of_their_parcels_and_features_are_found_by_name(parcels, runs):
    fields, encoder = gpd.read_file(parcels[0]), runs["scgc"] / "encoder.safetensors"
    expected = geossl.graphs.cluster(geossl.graphs.from_geodataframe(fields), encoder)
    named = fields[[*reversed(fields.columns)]].set_axis([f"p{i % 100}" for i in range(len(fields))])  # some twice
    found = geossl.graphs.cluster(geossl.graphs.from_geodataframe(named), encoder)
    assert list(found.index) == list(named.index)
    np.testing.assert_array_equal(found.cluster, expected.cluster)
    assert found.crs == fields.crs


def test_the_map_paints_every_pixel_of_a_parcel_with_its_cluster(runs, tmp_path):
    out, raster = tmp_path / "c.gpkg", tmp_path / "c.tif"
    encoder = str(runs["scgc"] / "encoder.safetensors")
    done = CliRunner().invoke(
        main, ["graphs", "cluster", "--encoder", encoder, "--out", str(out), "--raster", str(raster), "--gsd", "50"]
    )
    assert done.exit_code == 0, done.output
    nodes = gpd.read_file(out)
    assert {"cluster", "confidence", "margin", "e000", "e003"} <= set(nodes.columns)
    with rasterio.open(raster) as file, rasterio.open(tmp_path / "c_confidence.tif") as percent:
        cells, sure = file.read(1), percent.read(1)
        assert cells.shape == (24, 24)
        assert json.loads(file.tags()["CLASS_NAMES"])[0] == "cluster 0"
        for x, y, cluster, confidence in zip(
            *shapely.get_coordinates(nodes.centroid).T, nodes.cluster, nodes.confidence, strict=True
        ):
            row, column = file.index(x - 20, y + 20)
            assert cells[row, column] == cells[row + 1, column + 1] == cluster
            assert sure[row, column] == round(100 * confidence)
    areas = pd.read_csv(tmp_path / "c_area.csv")
    assert areas.hectares.sum() == pytest.approx(144, rel=0.01)


def test_outside_of_parcels_there_is_no_class(tmp_path):
    places = [shapely.box(0, 0, 100, 100), shapely.box(200, 0, 300, 100)]
    nodes = gpd.GeoDataFrame({"cluster": [1, 0], "confidence": [0.9, 0.5]}, geometry=places, crs=32633)
    with pytest.raises(InputError, match="gsd_m=1e-06 makes a raster of more than 1e.11 cells"):
        geossl.graphs.class_raster(tmp_path / "d.tif", nodes, gsd_m=1e-6)
    with rasterio.open(geossl.graphs.class_raster(tmp_path / "c.tif", nodes, gsd_m=100.0)) as file:
        assert file.read(1).tolist() == [[1, 255, 0]]
        assert file.nodata == 255
    for side in (0.0, -5.0, float("nan")):
        with pytest.raises(InputError, match=f"gsd_m={side} is not the side of a cell"):
            geossl.graphs.class_raster(tmp_path / "d.tif", nodes, gsd_m=side)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoder", "GRAPHMAE"], "graphmae_gat has no clusters of its own; say how many classes"),
        (["--encoder", "GRAPHMAE", "--classes", "500"], "classes=500 is not possible for 144 nodes"),
        (["--encoder", "SCGC", "--out", "c.shp"], r"--out c.shp must end in .gpkg or .parquet"),
        (["--encoder", "SCGC", "--raster", "c.png"], r"--raster c.png must end in .tif"),
        (["--encoder", "SCGC", "--source", "none.gpkg"], "does not exist"),
        (["--encoder", "none.safetensors"], "does not exist"),
    ],
)
def test_what_cannot_be_done_is_one_line(runs, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {name.upper(): str(path / "encoder.safetensors") for name, path in runs.items()}
    done = CliRunner().invoke(main, ["graphs", "cluster", *(files.get(a, a) for a in arguments)])
    assert done.exit_code == 2
    assert message.replace("\\", "") in done.output
    assert done.output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_outputs_are_not_overwritten_unasked(runs, tmp_path):
    (tmp_path / "c.gpkg").write_text("mine")
    encoder = str(runs["scgc"] / "encoder.safetensors")
    done = CliRunner().invoke(main, ["graphs", "cluster", "--encoder", encoder, "--out", str(tmp_path / "c.gpkg")])
    assert done.exit_code == 2
    assert "exists; choose another name, or --overwrite" in done.output
    assert (tmp_path / "c.gpkg").read_text() == "mine"


@pytest.mark.parametrize("dies_at", [70, 170])  # in the autoencoder's phase, and in the graph's
def test_a_resumed_run_ends_at_the_same_weights(runs, parcels, dies_at, tmp_path, monkeypatch):
    changes = [f"data.source={parcels[0]}", "data.edges=rook", "objective.clusters=3", *TINY]
    settings = recipe.load("scgc", [*changes, "train.checkpoint_every=40", f"out={tmp_path / 'run'}"])
    losses = SCGC.losses

    def dying(method, batch):
        if method.global_step == dies_at:
            raise RuntimeError("power cut")
        return losses(method, batch)

    monkeypatch.setattr(SCGC, "losses", dying)
    with pytest.raises(RuntimeError, match="power cut"):
        geossl.pretrain(settings)
    monkeypatch.setattr(SCGC, "losses", losses)
    again = geossl.pretrain(settings.model_copy(update={"resume": True}))
    state = geossl.load_encoder(runs["scgc"] / "encoder.safetensors").state_dict()
    resumed = geossl.load_encoder(again / "encoder.safetensors").state_dict()
    for name in state:
        torch.testing.assert_close(resumed[name], state[name])
    rows = pd.read_csv(again / "metrics.csv")
    assert (rows.contrast[rows.step <= 150] == 0).all()
    assert (rows.contrast[rows.step > 150] > 0).all()


@pytest.mark.parametrize("dies_at", [None, 180])
def test_nodes_held_out_say_when_to_stop_also_after_a_power_cut(parcels, dies_at, tmp_path, monkeypatch):
    changes = [f"data.source={parcels[0]}", "data.edges=rook", "data.holdout=0.25", "objective.clusters=3", *TINY]
    changes += ["train.lr=0.03", "train.log_every=1", "train.checkpoint_every=1", f"out={tmp_path / 'run'}"]
    settings, losses = recipe.load("scgc", changes), SCGC.losses

    def dying(method, batch):
        if method.global_step == dies_at:
            raise RuntimeError("power cut")
        return losses(method, batch)

    if dies_at:
        monkeypatch.setattr(SCGC, "losses", dying)
        with pytest.raises(RuntimeError, match="power cut"):
            geossl.pretrain(settings)
        monkeypatch.setattr(SCGC, "losses", losses)
        settings = settings.model_copy(update={"resume": True})
    with pytest.warns(Note, match=r"holdout nodes was least after \d+ of 220 updates") as told:
        run = geossl.pretrain(settings)
    rows = pd.read_csv(run / "metrics.csv")
    assert (rows.holdout[rows.step <= 150] == 0).all()
    graph = rows[rows.step > 151]  # a run needs an update on the graph; a row is of before its step
    best = int(graph.step[graph.holdout.idxmin()]) - 1
    assert best < 219  # edges are learned by heart in the end, so there is something to find
    note = next(str(w.message) for w in told if "holdout nodes" in str(w.message))
    assert f"least after {best} of 220 updates" in note
    assert f"train.max_steps={best} data.holdout=0" in note
    recipe.load("scgc", [*changes, f"train.max_steps={best}", "data.holdout=0"])


def test_a_sampled_run_ends_near_the_whole_one(parcels, tmp_path):
    tiny = ["encoder.dim=4", "encoder.widths=[16]", "objective.autoencoder_steps=60", "train.max_steps=90"]
    changes = [f"data.source={parcels[0]}", "data.edges=rook", "objective.clusters=3", *tiny]
    found = []
    for name, sampling in (("whole", []), ("sampled", ["data.batch_nodes=144", "data.neighbours=8"])):
        run = geossl.pretrain(recipe.load("scgc", [*changes, *sampling, f"out={tmp_path / name}"]))
        found.append(geossl.load_encoder(run / "encoder.safetensors").state_dict())
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], atol=1e-3, rtol=1e-3)


def test_features_without_edges_are_joined_to_their_nearest(parcels, tmp_path):
    x = gpd.read_file(parcels[0])[list("abcde")].to_numpy()
    np.savez(tmp_path / "x.npz", x=x)
    settings = ["objective.clusters=3", *TINY, f"out={tmp_path / 'run'}", f"data.source={tmp_path / 'x.npz'}"]
    done = CliRunner().invoke(main, ["pretrain", "scgc", *settings])
    assert done.exit_code == 2
    assert "has no edge_index; a graph needs both; or make edges of its features: data.edges=knn:5" in done.output
    assert not (tmp_path / "run").exists()
    done = CliRunner().invoke(main, ["pretrain", "scgc", *settings, "data.edges=knn:5"])
    assert done.exit_code == 0, done.output
    encoder = str(tmp_path / "run" / "encoder.safetensors")
    done = CliRunner().invoke(main, ["graphs", "cluster", "--encoder", encoder, "--out", str(tmp_path / "c.csv")])
    assert done.exit_code == 0, done.output
    found = pd.read_csv(tmp_path / "c.csv").cluster
    for crop in range(3):
        assert found[parcels[1] == crop].value_counts(normalize=True).iloc[0] > 0.9


def test_a_graph_with_classes_needs_no_number_of_clusters_and_is_scored_at_the_end(parcels, tmp_path):
    path, crop = tmp_path / "g.npz", parcels[1]
    graph = {"x": gpd.read_file(parcels[0])[list("abcde")].to_numpy(), "y": np.where(crop == 1, -1, crop)}
    side = np.array([(i, i + 1) for i in range(143) if i % 12 < 11]).T
    settings = [*TINY, f"out={tmp_path / 'run'}", f"data.source={path}", "data.holdout=0", "objective.patience=null"]
    for y, classes in ((None, 0), (np.full(144, 2), 1)):
        found = {**graph, "y": y}
        np.savez(path, edge_index=side, **{name: values for name, values in found.items() if values is not None})
        done = CliRunner().invoke(main, ["pretrain", "scgc/graph", *settings])
        assert done.exit_code == 2
        assert f"objective.clusters is not set, and data.source={path} has {classes} classes to count" in done.output
        assert not (tmp_path / "run").exists()
    np.savez(path, edge_index=side, **graph)
    done = CliRunner().invoke(main, ["pretrain", "scgc/graph", *settings])
    assert done.exit_code == 0, done.output
    encoder = tmp_path / "run" / "encoder.safetensors"
    assert len(geossl.load_encoder(encoder).centres) == 2
    scores = agreement(read_graph(path), geossl.graphs.cluster(path, encoder)["cluster"].to_numpy())
    assert f"classes  ACC {100 * scores['acc']:.1f}  NMI {100 * scores['nmi']:.1f}" in done.output


@pytest.mark.parametrize("method", ["graphmae", "scgc"])
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"edge_index": np.zeros((2, 0), int)},
            "(9 nodes) has no edges to learn from; connect its nodes, e.g. data.edges",
        ),
        ({"x": np.ones((9, 3))}, "(9 nodes) has the same features at every node; there is nothing to learn"),
        ({"x": np.ones((1, 3)), "edge_index": np.zeros((2, 0), int)}, "(1 nodes) has no edges"),
    ],
)
def test_graphs_without_anything_to_learn_are_refused(method, arrays, message, tmp_path):
    graph = {"x": np.random.default_rng(0).normal(size=(9, 3)), "edge_index": np.array([[0, 1], [1, 2]])}
    np.savez(tmp_path / "g.npz", **{**graph, **arrays})
    done = CliRunner().invoke(
        main, ["pretrain", method, f"data.source={tmp_path / 'g.npz'}", f"out={tmp_path / 'run'}"]
    )
    assert done.exit_code == 2
    assert message in done.output
    assert done.output.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_more_clusters_than_nodes_are_refused_before_anything_is_trained(parcels, tmp_path):
    settings = [f"data.source={parcels[0]}", "objective.clusters=500", f"out={tmp_path / 'run'}"]
    with pytest.raises(InputError, match=r"objective.clusters=500 is more than the 144 nodes of data.source="):
        geossl.pretrain(recipe.load("scgc", settings))
    assert not (tmp_path / "run").exists()


def test_recipes_say_what_does_not_fit():
    for changes, message in (
        (["encoder.dim=10", "encoder.heads=4"], "encoder.dim=10 must be a multiple of encoder.heads=4"),
        (["data.batch_nodes=8", "data.batch_graphs=2"], "both set; choose one"),
        (["objective.gamma=0.5"], "greater than or equal to 1"),
    ):
        with pytest.raises(RecipeError, match=message):
            recipe.load("graphmae", changes)
    with pytest.raises(RecipeError, match=r"train.max_steps=300 must be more than objective.autoencoder_steps=400"):
        recipe.load("scgc", ["train.max_steps=300"])


def test_an_image_encoder_is_no_graph_encoder(runs):
    graph = read_graph(Data(x=torch.ones(3, 2), edge_index=torch.tensor([[0, 1], [1, 0]])))
    with pytest.raises(InputError, match="has 2 features per node"):
        geossl.graphs.embed(graph, runs["graphmae"] / "encoder.safetensors")


def test_features_that_all_point_one_way_are_refused(tmp_path):
    graph = Data(x=torch.rand(50, 4) * 0.1 + 1, edge_index=torch.tensor([[0, 1], [1, 0]]))
    file = geossl.graphs.write(tmp_path / "g.npz", graph)
    changes = [f"data.source={file}", "encoder.dim=8", "train.max_steps=2", f"out={tmp_path / 'run'}"]
    with pytest.raises(InputError, match=r"nearly all point the same way \(mean cosine 1.00\).*encoder.scaling=column"):
        geossl.pretrain(recipe.load("graphmae", [*changes, "encoder.scaling=none"]))
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("*.safetensors"))
    geossl.pretrain(recipe.load("graphmae", changes))


def test_images_are_told_apart_by_their_graphs(tmp_path):
    rng = np.random.default_rng(0)
    stripes = np.kron(np.tile([[0, 1]], (1, 4)), np.ones((32, 4)))  # one class has stripes of the other's mean
    x = np.stack([[stripes if i % 2 else stripes * 0 + 0.5, rng.random((32, 32))] for i in range(24)])
    x = (0.5 * x + rng.normal(0, 0.025, x.shape)).astype(np.float32)  # reflectance
    np.savez(tmp_path / "set.npz", x=x, y=np.arange(24) % 2, bands=["B04", "B08"], class_names=["flat", "striped"])
    graphs = geossl.graphs.from_images(tmp_path / "set.npz", segment_px=32)
    assert graphs.classes == ("flat", "striped")
    assert len(graphs.graph_y) == 24 == int(graphs.batch.max()) + 1
    file = geossl.graphs.write(tmp_path / "graphs.npz", graphs)
    gin = ["encoder.kind=gin", "encoder.dim=16", "encoder.norm=batch", "objective.decoder=gin", "data.batch_graphs=8"]
    changes = [*gin, f"data.source={file}", "train.max_steps=20", f"out={tmp_path / 'run'}"]
    encoder = geossl.pretrain(recipe.load("graphmae", changes)) / "encoder.safetensors"
    vectors = geossl.graphs.embed_many(file, encoder)
    assert vectors.shape == (24, 16)
    samples = Samples(vectors.to_numpy(), graphs.graph_y.numpy())
    assert svm_folds(samples, 2, folds=4).values["accuracy"] > 0.9
    nodes = geossl.graphs.embed(file, encoder).to_numpy()
    np.testing.assert_allclose(vectors.iloc[3], nodes[graphs.batch == 3].mean(0), atol=1e-5)
    with pytest.raises(InputError, match="this is one graph, without batch"):
        geossl.graphs.embed_many(Data(x=graphs.x, edge_index=graphs.edge_index), encoder)
    np.savez(tmp_path / "g.npz", x=np.ones((2, 1)), edge_index=np.array([[0], [1]]), y=np.array([0, 1]))
    with pytest.raises(InputError, match="holds no images of one class each"):
        geossl.graphs.from_images(tmp_path / "g.npz")


def test_places_come_from_parquet_too(parcels, tmp_path):
    frame = gpd.read_file(parcels[0])
    frame.to_parquet(tmp_path / "p.parquet")
    one, two = (source_graph(Graphs(source=str(p), edges="rook")) for p in (parcels[0], tmp_path / "p.parquet"))
    assert torch.equal(one.x, two.x)
    assert torch.equal(one.edge_index, two.edge_index)
    with pytest.raises(InputError, match=r"data.source file 'none.gpkg' does not exist"):
        source_graph(Graphs(source="none.gpkg"))


def test_agreement_is_that_of_nodes_with_a_known_class():
    clusters = np.array([2, 2, 0, 0, 1, 1])
    y = torch.tensor([0, 0, 1, 1, -1, -1])
    assert agreement(Data(y=y), clusters) == {"acc": 1.0, "nmi": 1.0, "ari": 1.0, "f1": 1.0}
    assert agreement(Data(y=torch.tensor([0, 0, 1, 0, 1, -1])), clusters)["acc"] == pytest.approx(3 / 5)
    for unknown in (None, torch.full((6,), -1), torch.zeros(6, 2), torch.zeros(3)):
        assert agreement(Data(y=unknown), clusters) == {}
