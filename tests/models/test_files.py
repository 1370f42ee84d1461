import hashlib
import http.server
import json
import os
import pickle
import threading
from contextlib import nullcontext

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from geossl.errors import MissingFileError, UnknownNameError, WeightsError
from geossl.models import download as downloads
from geossl.models import files
from geossl.models.download import ReleasedWeights, download
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.encoders.croma_weights import from_layout, to_layout
from geossl.models.files import EncoderFile, check_fields, load_encoder, provenance, read_encoder, save_encoder


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return CROMAEncoder(croma_spec("tiny", window_px=48, margin_px=8, dim=64, depth=2, heads=16)).eval()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_our_file_keeps_weights_spec_and_provenance(encoder, tmp_path):
    path = tmp_path / "e.safetensors"
    save_encoder(path, encoder, {"steps": 7})
    again = load_encoder(path)
    assert same(encoder, again)
    assert again.spec == encoder.spec
    assert not again.training
    assert provenance(path) == {"steps": 7}
    assert [p.name for p in tmp_path.iterdir()] == ["e.safetensors"]


PRETRAINING = (
    ("s1_encoder.", "radar_encoder."),
    ("s2_encoder.", "optical_encoder."),
    ("s1_GAP_FFN.", "GAP_FFN_radar."),
    ("s2_GAP_FFN.", "GAP_FFN_optical."),
    ("joint_encoder.", "cross_encoder."),
    ("to_qkv", "create_qkv"),
    ("net.3", "net.2"),
)


def renamed(flat, rules):
    out = {}
    for key, value in flat.items():
        for old, new in rules:
            key = key.replace(old, new)
        out[key] = value
    return out


def pretraining_layout(flat):
    out = {}
    for key, value in renamed(flat, PRETRAINING).items():
        is_cross = key.startswith("cross_encoder") and ".1." in key.split("layers.")[-1][1:4]
        for name in "qkv":
            key = key.replace(f"to_{name}.", f"create_{name}.")
        out[key if is_cross else key.replace(".to_out.", ".out.")] = value
    return out | {"mask_token": torch.zeros(1, 1, 8), "decoder.linear.weight": torch.zeros(2, 2)}


@pytest.mark.parametrize("layout", ["released", "torchgeo", "torchgeo with bias", "inference", "pretraining"])
def test_every_published_layout_is_read(encoder, tmp_path, layout):
    flat = to_layout(encoder, "torchgeo")
    values = {
        "released": to_layout(encoder, "released"),
        "torchgeo": flat,
        "torchgeo with bias": flat | {"attn_bias": torch.zeros(1, 16, 4, 4)},
        "inference": renamed(
            flat, [("s1_GAP_FFN", "GAP_FFN_s1"), ("s2_GAP_FFN", "GAP_FFN_s2"), ("joint_enc", "cross_enc")]
        ),
        "pretraining": pretraining_layout(flat),
    }[layout]
    torch.save(values, tmp_path / "CROMA.pt")
    assert same(read_encoder(tmp_path / "CROMA.pt"), encoder)


def test_left_over_missing_and_misshapen_tensors_are_named(encoder):
    flat = to_layout(encoder, "torchgeo")
    with pytest.raises(WeightsError, match="has unexpected 1 tensors, first 'extra.weight'"):
        from_layout(flat | {"extra.weight": torch.zeros(1)})
    short = {k: v for k, v in flat.items() if k != "joint_encoder.norm_out.weight"}
    with pytest.raises(WeightsError, match="lacks 1 tensors, first 'joint.norm.weight'"):
        from_layout(short)
    with pytest.raises(WeightsError, match="wrongly shaped 1 tensors, first 'joint.norm.weight'"):
        from_layout(flat | {"joint_encoder.norm_out.weight": torch.zeros(3)})
    with pytest.raises(WeightsError, match="not a CROMA weight file"):
        from_layout({"conv.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="holds a list"):
        from_layout([1])


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"s1_encoder": Bomb()}, "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb()))
    for name in ("evil.pt", "raw.pt"):
        with pytest.raises(WeightsError, match="it was not run"):
            read_encoder(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_truncated_file_says_so(encoder, tmp_path, suffix):
    path = tmp_path / f"cut{suffix}"
    torch.save(to_layout(encoder, "released"), path) if suffix == ".pt" else save_encoder(path, encoder, {})
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(WeightsError, match="is damaged"):
        read_encoder(path)


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>", b"\x00" * 100])
def test_a_file_that_is_no_weights_says_so(tmp_path, content):
    path = tmp_path / "page.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="page.pt"):
        read_encoder(path)


def test_names_and_paths_are_told_apart(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'croma_base'"):
        load_encoder("croma_bas")
    with pytest.raises(MissingFileError, match="'nowhere/e.safetensors' does not exist"):
        load_encoder("nowhere/e.safetensors")
    with pytest.raises(WeightsError, match="is a folder; name a weight file"):
        load_encoder(tmp_path)


class Server(http.server.BaseHTTPRequestHandler):
    content, cut, asked = b"", None, []

    def do_GET(self):
        start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0])
        Server.asked.append(start)
        if start >= len(self.content):
            self.send_error(416)
            return
        part = self.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part[: Server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(encoder, tmp_path):
    path = tmp_path / "released.pt"
    torch.save(to_layout(encoder, "released"), path)
    Server.content, Server.cut, Server.asked = path.read_bytes(), None, []
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{httpd.server_port}/CROMA_base.pt"
    yield ReleasedWeights(url, hashlib.sha256(Server.content).hexdigest(), "CROMA_base.pt", "MIT")
    httpd.shutdown()


def test_a_name_is_downloaded_once_checked_and_loaded(server, encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOSSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(downloads.ENCODERS, "croma_base", server)
    assert same(load_encoder("croma_base"), encoder)
    assert same(load_encoder("croma_base"), encoder)
    assert Server.asked == [0]


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    Server.cut = 1000
    with pytest.raises(WeightsError, match="closed after 1000 of"):
        download(server, tmp_path)
    Server.cut = None
    assert download(server, tmp_path).read_bytes() == Server.content
    assert Server.asked == [0, 1000]


def test_a_wrong_hash_is_thrown_away(server, tmp_path):
    wrong = ReleasedWeights(server.url, "0" * 64, "CROMA_base.pt", "MIT")
    with pytest.raises(WeightsError, match="expected 0000"):
        download(wrong, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_offline_says_where_to_put_the_file(tmp_path):
    nowhere = ReleasedWeights("http://127.0.0.1:9/CROMA_base.pt", "ab" * 32, "CROMA_base.pt", "MIT")
    with pytest.raises(WeightsError, match=f"put the file at {tmp_path}/CROMA_base.pt \\(SHA-256 abab"):
        download(nowhere, tmp_path)


def test_released_weights_are_pinned():
    own = downloads.ENCODERS["croma_tiny"]
    assert downloads.sha256_of(downloads.download(own)) == own.sha256
    for weights in downloads.ENCODERS.values():
        assert len(weights.sha256) == 64 or f"-{weights.sha256}." in weights.url  # as much as is published
        if weights is own:
            continue
        revisions = (
            "/resolve/0dd28e3d633bd6715856ae9890e8c49360040598/",
            "/0f0b5b95ac81acef4b74cf4686dc877202f4541b/",
            "/13173d028f035abcbcc3b13829314323a5c15d02/",
            "/09adbfeaffc50a4817578abca4c9e3a1723d571d/",
        )
        assert any(revision in weights.url for revision in revisions)


def test_an_unknown_architecture_is_named(encoder, tmp_path):
    from safetensors.torch import save_file

    spec = encoder.spec.to_dict() | {"architecture": "vit9"}
    metadata = {"geossl": json.dumps({"spec": spec, "provenance": {}})}
    save_file(encoder.state_dict(), tmp_path / "x.safetensors", metadata)
    with pytest.raises(WeightsError, match="needs architecture 'vit9'"):
        read_encoder(tmp_path / "x.safetensors")


def rewritten(path, encoder, change_state=None, change_note=None):
    """A file of ours with something in it changed."""
    save_encoder(path, encoder, {})
    with safe_open(path, "pt") as file:
        note = json.loads(file.metadata()["geossl"])
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if change_state:
        change_state(state)
    if change_note:
        note = change_note(note) or note
    save_file(state, path, {"geossl": json.dumps(note)})
    return path


def put(state, number):
    key = sorted(state)[3]
    state[key] = torch.full_like(state[key], number)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_numbers_are_refused(encoder, tmp_path, number):
    path = rewritten(tmp_path / "e.safetensors", encoder, change_state=lambda s: put(s, number))
    with pytest.raises(WeightsError, match=r"holds NaN or infinite numbers in 1 tensors, first '"):
        read_encoder(path)


def test_whole_numbers_in_place_of_weights_are_refused(encoder, tmp_path):
    def whole(state):
        key = sorted(state)[0]
        state[key] = state[key].to(torch.int32)

    path = rewritten(tmp_path / "e.safetensors", encoder, change_state=whole)
    with pytest.raises(WeightsError, match="has wrongly typed 1 tensors"):
        read_encoder(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda n: n["spec"]["sensors"]["s2"].update(std=[0.0] * 12), "std must be positive"),
        (lambda n: n["spec"]["sensors"]["s2"].update(std=[float("nan")] * 12), "std must be positive"),
        (lambda n: n["spec"]["sensors"]["s2"].update(mean=[float("inf")] * 12), "mean must be a number"),
        (lambda n: n["spec"]["sensors"]["s2"].update(bands=["B02"] * 12), "every band once"),
        (lambda n: n["spec"].update(patch_px=0), "patch_px=0 and gsd_m=10.0 must be positive"),
        (lambda n: n["spec"].update(gsd_m=-10.0), "gsd_m=-10.0 must be positive"),
        (lambda n: n["spec"]["arguments"].update(depth=10**9), "claims depth far beyond"),
        (lambda n: n["spec"]["arguments"].update(dim=4096, depth=24), "claims a model far larger"),
        (lambda n: n["spec"]["arguments"].update(dim="wide"), "describes no encoder that can be built"),
        (lambda n: n["spec"].update(nonsense=1), "describes no encoder that can be built"),
        (lambda n: n["spec"].pop("sensors") and None, "describes no encoder that can be built"),
        (lambda n: n["spec"].update(architecture=["croma"]), "damaged header"),
        (lambda n: {"provenance": {}}, "damaged header"),
        (lambda n: [1, 2], "damaged header"),
        (lambda n: {"spec": "croma"}, "damaged header"),
    ],
)
def test_a_damaged_header_is_one_line(encoder, tmp_path, change, words):
    path = rewritten(tmp_path / "e.safetensors", encoder, change_note=change)
    with pytest.raises(WeightsError, match=words):
        read_encoder(path)


def test_text_and_whole_numbers_of_a_spec_are_not_something_else():
    class Stated:  # specs themselves are checked by jaxtyping in tests, not at a user's
        name: str
        dim: int

    for name, dim, words in (("a", 8, None), (7, 8, "name is 7, not text"), ("a", 8.0, "dim is 8.0, not a whole")):
        spec = Stated()
        spec.name, spec.dim = name, dim
        with pytest.raises(TypeError, match=words) if words else nullcontext():
            check_fields(spec)


def test_a_header_nested_deeper_than_json_is_read_is_one_line(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "e.safetensors", {"geossl": "[" * 5000 + "]" * 5000})
    with pytest.raises(WeightsError, match="is damaged or no safetensors file|has a damaged header"):  # 3.13 reads it
        read_encoder(tmp_path / "e.safetensors")


def test_a_weight_file_is_hashed_and_loaded_once_until_it_changes(encoder, tmp_path, monkeypatch):
    path, reads = tmp_path / "e.safetensors", []
    save_encoder(path, encoder, {})
    read = files.read_encoder
    monkeypatch.setattr(files, "read_encoder", lambda p: reads.append(p) or read(p))
    one, two = EncoderFile.open(path), EncoderFile.open(str(path))
    assert one is two
    assert one.path == path
    assert one.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert same(one.encoder, encoder)
    assert len(reads) == 1
    save_encoder(path, encoder, {"note": "another"})
    assert EncoderFile.open(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest() != one.sha256
    assert len(reads) == 2
