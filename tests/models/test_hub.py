import hashlib
import http.server
import threading

import pytest
import torch

from geossl.errors import Note, WeightsError
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.files import load_encoder, save_encoder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """As Hugging Face: the hash in the first answer, the bytes behind a redirect."""

    content, states_hash, asked = b"", True, []

    def answer(self, with_body):
        Hub.asked.append((self.command, self.path))
        if self.path.startswith("/cdn"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.content)))
        elif self.path == f"/me/nets/resolve/{COMMIT}/sub/e.safetensors":
            self.send_response(302)
            self.send_header("Location", "/cdn/e")
            if self.states_hash:
                self.send_header("X-Linked-Etag", f'"{hashlib.sha256(self.content).hexdigest()}"')
            with_body = False
        else:
            self.send_response(404)
            with_body = False
        self.end_headers()
        if with_body:
            self.wfile.write(self.content)

    def do_GET(self):
        self.answer(True)

    def do_HEAD(self):
        self.answer(False)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    torch.manual_seed(0)
    encoder = CROMAEncoder(croma_spec("tiny", window_px=48, margin_px=8, dim=32, depth=2, heads=4)).eval()
    save_encoder(tmp_path / "e.safetensors", encoder, {})
    Hub.content, Hub.states_hash, Hub.asked = (tmp_path / "e.safetensors").read_bytes(), True, []
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{httpd.server_port}")
    monkeypatch.setenv("GEOSSL_CACHE", str(tmp_path / "cache"))
    yield encoder
    httpd.shutdown()


NAME = f"hf:me/nets/sub/e.safetensors@{COMMIT}"


def test_a_pinned_file_is_downloaded_once_with_the_hash_the_server_states(hub, tmp_path):
    assert torch.equal(load_encoder(NAME).radar.embed.weight, hub.radar.embed.weight)
    asked = len(Hub.asked)
    assert load_encoder(NAME).spec == hub.spec
    assert len(Hub.asked) == asked  # nothing: the note beside the file has its hash
    (file,) = (tmp_path / "cache").glob("hf_me_nets_0123456789ab_*.safetensors")
    assert file.read_bytes() == Hub.content


def test_a_damaged_file_in_the_cache_is_noticed_and_fetched_again(hub, tmp_path):
    load_encoder(NAME)
    (file,) = (tmp_path / "cache").glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.warns(Note, match="is damaged .* downloaded again"):
        load_encoder(NAME)
    assert file.read_bytes() == Hub.content


def test_other_bytes_than_the_hash_in_the_name_are_refused(hub, tmp_path):
    with pytest.raises(WeightsError, match=r"has SHA-256 .*, expected 0000"):
        load_encoder(f"{NAME}#{'0' * 64}")
    assert not list((tmp_path / "cache").glob("*.safetensors"))


def test_a_server_that_states_no_hash_needs_one_in_the_name(hub):
    Hub.states_hash = False
    with pytest.raises(WeightsError, match="does not state the SHA-256"):
        load_encoder(NAME)
    assert load_encoder(f"{NAME}#{hashlib.sha256(Hub.content).hexdigest()}").spec == hub.spec


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:me/nets/e.safetensors@main", "revision 'main' can move; write the 40 digits"),
        (f"hf:me/nets/e.pt@{COMMIT}", "only .safetensors are downloaded, as other files may run code"),
        (f"hf:me/nets/../e.safetensors@{COMMIT}", "only .safetensors are downloaded"),
        (f"hf:me/e.safetensors@{COMMIT}", "is not of the form hf:owner/repo/file"),
        (f"hf:me/nets/none.safetensors@{COMMIT}", r"cannot download .* \(Not Found\); look at its name"),
        (f"hf:me/nets/e.safetensors@{COMMIT}#12", "'12' is not a SHA-256"),
    ],
)
def test_names_that_are_not_pinned_or_not_safe_are_refused(hub, name, message):
    with pytest.raises(WeightsError, match=message):
        load_encoder(name)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("net.py", "is Python code; geossl runs no code of others"),
        ("net.pkl", "is a pickle, which may run code"),
        ("net.onnx", "is for other runtimes; export a .pt2"),
    ],
)
def test_files_that_are_code_are_refused(tmp_path, file, message):
    (tmp_path / file).write_text("import os")
    with pytest.raises(WeightsError, match=message):
        load_encoder(tmp_path / file)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_is_refused_and_not_run(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "net.pt")
    with pytest.raises(WeightsError, match="is a TorchScript program, which holds code; it was not run"):
        load_encoder(tmp_path / "net.pt")


def test_weight_files_are_readable_as_the_umask_says(hub, tmp_path):
    (tmp_path / "plain").touch()
    save_encoder(tmp_path / "mode.safetensors", hub, {})
    assert (tmp_path / "mode.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
