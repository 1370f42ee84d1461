"""A plan for any region: shards share it out, it survives being written, an interrupted map is resumed by it."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geossl.errors import InputError
from geossl.grid import Lattice
from geossl.inference.engine.plan import BuildFolder, Plan, fitting_shard, read_plan

metadata = st.dictionaries(
    st.sampled_from(["encoder_sha256", "precision", "valid_share", "margin_px"]),
    st.one_of(st.text(max_size=8), st.integers(0, 99), st.floats(0, 1), st.lists(st.integers(0, 9), max_size=3)),
)


@st.composite
def plans(draw):
    lattice = Lattice(32631, 8, 10.0, draw(st.integers(1, 9)))
    x, y, w, h = (draw(st.floats(0.01, 10)) * lattice.cell_m for _ in range(4))
    return Plan(
        lattice,
        draw(st.sampled_from([shapely.box(x, y, x + w, y + h), shapely.Point(x, y).buffer(w)])),
        shard_cells=draw(st.integers(1, 6)),
        phases=draw(st.sampled_from([1, 2])),
        dtype=draw(st.sampled_from(["int8", "float32"])),
        metadata={"source": {"s2": []}, **draw(metadata)},
    )


@given(plans())
def test_every_cell_of_the_region_is_computed_in_exactly_one_shard(plan):
    top, left, rows, columns = plan.extent
    computed = np.zeros((rows, columns), int)
    for shard in plan.shards:
        row, column, height, width = plan.block(shard)
        assert plan.cells(shard).shape == (height, width)
        assert plan.cells(shard).any()
        computed[row - top : row - top + height, column - left : column - left + width] += plan.cells(shard)
    np.testing.assert_array_equal(computed, plan.lattice.touched(plan.area, *plan.extent))
    assert sum(map(plan.km2, plan.shards)) == pytest.approx(computed.sum() * (plan.lattice.cell_m / 1000) ** 2)
    assert plan.geobox.shape == (rows * plan.cell_side, columns * plan.cell_side)


@given(plans())
def test_a_plan_written_and_read_is_the_same(plan):
    with tempfile.TemporaryDirectory() as folder:
        build = BuildFolder(Path(folder) / "map.zarr")
        assert not build.begin(plan, overwrite=False)
        build.write(build.plan, plan.to_json())
        assert read_plan(build.plan) == plan.to_json() == json.loads(json.dumps(plan.to_json()))
        assert build.begin(plan, overwrite=False)
        build.check(plan, overwrite=False)


@given(plans(), st.data())
def test_another_plan_has_another_hash_and_is_refused_by_the_key_that_differs(plan, data):
    key, other = data.draw(
        st.sampled_from(
            [
                ("shard_cells", replace(plan, shard_cells=plan.shard_cells + 1)),
                ("dtype", replace(plan, dtype="float16")),
                ("phases", replace(plan, phases=4)),
                ("gsd_m", replace(plan, lattice=replace(plan.lattice, gsd_m=20.0))),
                ("area", replace(plan, area=shapely.affinity.translate(plan.area, 1, 0))),
                ("precision", replace(plan, metadata={**plan.metadata, "precision": "bf16, rounded"})),
            ]
        )
    )
    assert plan.sha256 == replace(plan, metadata=dict(reversed(plan.metadata.items()))).sha256 != other.sha256
    with tempfile.TemporaryDirectory() as folder:
        build = BuildFolder(Path(folder) / "map.zarr")
        build.begin(plan, overwrite=False)
        build.write(build.plan, plan.to_json())
        with pytest.raises(InputError, match=rf"was started with another {key}; choose another out"):
            build.check(other, overwrite=False)


@given(plans(), st.data())
def test_a_resumed_map_computes_what_has_no_receipt(plan, data):
    finished = data.draw(st.sets(st.sampled_from(plan.shards)))
    with tempfile.TemporaryDirectory() as folder:
        build = BuildFolder(Path(folder) / "map.zarr")
        build.begin(plan, overwrite=False)
        build.write(build.plan, plan.to_json())
        for row, column in finished:
            patches = int(plan.cells((row, column)).sum())
            build.write(build.receipts / f"{row}_{column}.json", {"patches": patches, "fed": {"s1": 1, "s2": patches}})
        (build.receipts / "0_0.tmp").write_text("{")  # what a killed writer leaves is not a receipt
        assert build.begin(plan, overwrite=False)
        assert build.done() == finished
        cells = sum(int(plan.cells(shard).sum()) for shard in finished)
        totals = {"patches": 0, "s1": 0, "s2": 0}
        assert [build.read(shard, totals) for shard in finished] == [{}] * len(finished)
        assert totals == {"patches": cells, "s1": len(finished), "s2": cells}
        assert not build.begin(plan, overwrite=True)
        assert build.done() == set()


@given(st.integers(-40, 40), st.integers(-40, 40), st.integers(1, 60), st.integers(1, 60))
def test_a_map_of_blocks_begins_with_its_region_but_for_a_small_share(row, column, rows, columns):
    lattice = Lattice(32631, 8, 10.0, 16)
    side = lattice.cell_m
    area = shapely.box(column * side, -(row + rows) * side, (column + columns) * side, -row * side)
    plan = Plan(lattice, area, fitting_shard(lattice, area, 8), 1, "int8", {}, 8)
    top, left, height, width = plan.extent
    assert (top + height, left + width) == (row + rows, column + columns)
    assert row - top <= 0.05 * rows
    assert column - left <= 0.05 * columns
    tasks = plan.tasks(plan.shards)
    assert sorted(shard for task in tasks for shard in task) == sorted(plan.shards)
    if len(plan.shards) > 1 and min(rows, columns) > 8:
        assert all(plan.blocks(task[0])[2:] == (8, 8) for task in tasks)
    assert sum(int(plan.asked(task).sum()) for task in tasks) == rows * columns
