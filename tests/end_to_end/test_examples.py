from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_there_are_eight():
    assert [path.name[0] for path in NOTEBOOKS] == [*"12345678"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_kept_with_its_pictures_and_is_small(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))
    assert not [
        output for output in outputs(notebook) if output.output_type == "error" or output.get("name") == "stderr"
    ]
    assert path.stat().st_size < 600_000
    assert str(Path.home()) not in path.read_text()


@pytest.fixture(scope="module")
def kernel():
    """One kernel for all notebooks: importing torch takes longer than most of them do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(EXAMPLES.parent))
        manager, client = start_new_kernel(kernel_name="python3")
    client.stop_channels()
    yield manager
    manager.shutdown_kernel(now=True)


def shorten(notebook):
    """Every cell runs as it stands, but pretrains for a moment and maps coarsely: only pictures are counted."""
    whole = "\n".join(cell.source for cell in notebook.cells)
    assert whole.count("train__max_steps") == whole.count("train__max_steps=80") <= 1
    for cell in notebook.cells:
        cell.source = cell.source.replace("train__max_steps=80", "train__max_steps=2")
        cell.source = cell.source.replace("data__batch_size=32", "data__batch_size=8").replace("gsd_m=20", "gsd_m=40")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_and_writes_nothing_where_it_stands(path, tmp_path, kernel):
    notebook = nbformat.read(path, as_version=4)
    pictures = sum("image/png" in output.get("data", {}) for output in outputs(notebook))
    fresh = nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {tmp_path}")
    notebook.cells.insert(0, fresh)
    shorten(notebook)
    NotebookClient(notebook, km=kernel, timeout=600).execute(reset_kc=False, cleanup_kc=False)
    assert sum("image/png" in output.get("data", {}) for output in outputs(notebook)) == pictures
    assert not list(tmp_path.iterdir())
