import errno
import subprocess
import threading
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from geossl.training import run_folder, run_log

ROOT = Path(__file__).parents[2]


def repository(folder, name):
    """A repository of one commit whose pyproject.toml names a project; returns the commit."""
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_the_revision_of_a_geossl_checkout_is_recorded(tmp_path):
    assert run_folder.own_revision(tmp_path) == "unknown"
    assert run_folder.own_revision(tmp_path) != (commit := repository(tmp_path, "geossl"))
    assert run_folder.own_revision(tmp_path) == commit


def test_the_revision_of_the_users_repository_is_not(tmp_path):
    repository(tmp_path, "my-thesis")
    assert run_folder.own_revision(tmp_path) == "unknown"
    packages = tmp_path / ".venv" / "lib" / "site-packages"
    packages.mkdir(parents=True)
    assert run_folder.own_revision(packages) == "unknown"
    (packages / "pyproject.toml").write_text('[project]\nname = "geossl"\n')  # unpacked below, not a checkout
    assert run_folder.own_revision(packages) == "unknown"


@pytest.mark.parametrize("text", ["[project", "name = 'geossl'", '[project]\nversion = "1"'])
def test_a_project_file_that_says_something_else_is_not_geossl(tmp_path, text):
    repository(tmp_path, "geossl")
    (tmp_path / "pyproject.toml").write_text(text)
    assert run_folder.own_revision(tmp_path) == "unknown"


def test_a_machine_without_git_trains_all_the_same(tmp_path, monkeypatch):
    repository(tmp_path, "geossl")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_folder.own_revision(tmp_path) == "unknown"
    assert run_folder.versions()["git"] == "unknown"


def test_a_disk_that_is_full_for_tensorboard_prints_no_traceback(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def write(board):
        for step in range(100):
            board.add_scalar("loss", 1.0, step)
            board.flush()

    printed = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: printed.append(type(failure.thread).__name__))
    run_log.quiet_writers()
    board = SummaryWriter(str(tmp_path))
    monkeypatch.setattr(type(board.file_writer.event_writer._async_writer._writer), "write", full)
    with pytest.raises(OSError, match="No space left"):
        write(board)
    other = threading.Thread(target=full)
    other.start()
    other.join()
    assert printed == ["Thread"]  # other threads speak as they did
