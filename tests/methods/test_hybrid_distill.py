import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import geossl
from geossl import recipe
from geossl.errors import InputError, Note, RecipeError, RunError, WeightsError
from geossl.methods.base import OptimConfig
from geossl.methods.hybrid_distill import (
    HybridDistill,
    Relations,
    equally_many,
    regroup,
    relation_logits,
    relation_loss,
    restricted,
    uniform_loss,
    unusual_tokens,
)
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.encoders.vit import ViT, vit_spec
from geossl.models.files import save_encoder
from geossl.models.spec import ImageGeometry
from geossl.models.teachers import EncoderTeacher
from geossl.sensors import RGB, S2, numbered_bands
from tests.methods.test_mr_mae import Norms, batch, bundled_chips, losses_around_training
from tests.models.encoders.test_vit import vit

CONTRACT = [
    "data.batch_size=4",
    "data.chip_px=48",
    "data.crop_px=null",
    "encoder.statistics=published",
    "teachers.feature.name=TEACHERS/croma.safetensors",
    "teachers.relation.name=TEACHERS/vit.safetensors",
]  # recipe values for test_contract.py

OPTIM = OptimConfig("adamw", 2e-3, (0.9, 0.95), 0.05, "cosine", 2, 200)
PAIRS = ((0, 1), (2, 2))


def random_qkv(seed=0, shape=(2, 3, 5, 4)):
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, generator=g, dtype=torch.float64) for _ in range(3))


def student(seed=0, **more):
    return vit({"rgb": RGB}, seed=seed, **{"depth": 6, **more}).train()


def masked_teacher(seed=5, **more):
    return EncoderTeacher(student(seed, **more))


def method(feature=True, relation=True, seed=0, encoder=None, **settings):
    first, second = Norms() if feature is True else feature, masked_teacher() if relation is True else relation
    return HybridDistill(encoder or student(seed), OPTIM, first, second, seed=seed, **settings)


def test_the_worked_number():
    state = np.random.RandomState(0)
    teacher, found = (torch.from_numpy(state.standard_normal((3, 2, 5, 4)))[:, None] for _ in range(2))
    terms = []
    for i, j in PAIRS:
        target = (teacher[i] @ teacher[j].transpose(-1, -2) / 2).log_softmax(-1)
        mine = (found[i] @ found[j].transpose(-1, -2) / 2).log_softmax(-1)
        terms.append(float((target.exp() * (target - mine)).sum(-1).mean()))
    assert terms == pytest.approx([0.423533042528, 0.650035543332], abs=1e-10)
    loss = relation_loss(tuple(found), tuple(teacher))  # in float32, as in training
    assert float(loss) == pytest.approx(1.073568585860, abs=1e-6)


def test_relation_matrices_have_their_shape_and_scale():
    q, k, v = random_qkv()
    logits = relation_logits(q, k)
    assert logits.shape == (2, 3, 5, 5)
    assert torch.allclose(logits.softmax(-1).sum(-1), torch.ones(2, 3, 5))
    slow = [[float((q[0, 1, i] * k[0, 1, j]).sum()) / 2 for j in range(5)] for i in range(5)]
    torch.testing.assert_close(logits[0, 1], torch.tensor(slow), atol=1e-5, rtol=0)
    torch.testing.assert_close(relation_logits(2 * q, k / 2), logits)
    padded = relation_logits(F.pad(q, (0, 4)), F.pad(k, (0, 4)))
    torch.testing.assert_close(padded, logits / math.sqrt(2))
    values = relation_logits(v, v)
    torch.testing.assert_close(values, values.transpose(-1, -2))


def test_relations_and_redundancy_are_exact_under_autocast():
    one, two = (tuple(t.float() for t in random_qkv(i)) for i in (0, 1))
    tokens = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0))
    loss, stay = relation_loss(one, two), unusual_tokens(tokens, 40)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(relation_loss(one, two), loss)
        assert torch.equal(unusual_tokens(tokens, 40), stay)


def test_nothing_is_lost_when_student_and_teacher_are_one_and_something_otherwise():
    one, two = random_qkv(0), random_qkv(1)
    mine = tuple(t.clone().requires_grad_() for t in one)
    loss = relation_loss(mine, one)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert max(float(t.grad.abs().max()) for t in mine) < 1e-6
    assert float(relation_loss(two, one)) > 0.1


def test_a_uniform_student_loses_log_n_minus_the_teachers_entropy():
    sharp, flat = random_qkv(0), tuple(torch.zeros(2, 3, 5, 4) for _ in range(3))
    expected = 0.0
    for i, j in PAIRS:
        p = relation_logits(sharp[i], sharp[j]).softmax(-1)
        expected += math.log(5) - float(-(p * p.log()).sum(-1).mean())
    assert float(relation_loss(flat, sharp)) == pytest.approx(expected, abs=1e-5)
    assert float(uniform_loss(sharp)) == pytest.approx(expected, abs=1e-5)
    assert float(relation_loss(sharp, flat)) != pytest.approx(expected, abs=1e-2)


def test_kinds_of_relations_are_added():
    one, two = random_qkv(0), random_qkv(1)
    alone = {kind: float(relation_loss(one, two, (kind,))) for kind in ("qk", "vv", "qq", "kk")}
    assert len({round(x, 6) for x in alone.values()}) == 4
    assert float(relation_loss(one, two, tuple(alone))) == pytest.approx(sum(alone.values()), rel=1e-5)
    assert float(relation_loss(one, two)) == pytest.approx(alone["qk"] + alone["vv"], rel=1e-5)
    q = relation_logits(two[0], two[0]).log_softmax(-1)
    by_hand = (q.exp() * (q - relation_logits(one[0], one[0]).log_softmax(-1))).sum(-1).mean()
    assert alone["qq"] == pytest.approx(float(by_hand), rel=1e-5)


def test_leaving_out_before_the_softmax_is_leaving_out_and_summing_to_one():
    qkv, ids = random_qkv(), torch.tensor([[0, 3, 4], [1, 2, 4]])
    q, k, _ = restricted(qkv, ids)
    whole = relation_logits(qkv[0], qkv[1]).softmax(-1)
    for row in range(2):
        cut = whole[row][:, ids[row]][..., ids[row]]
        expected = cut / cut.sum(-1, keepdim=True)
        torch.testing.assert_close(relation_logits(q, k).softmax(-1)[row], expected, atol=1e-6, rtol=0)


def test_order_of_tokens_does_not_matter_to_the_relation_loss():
    one, two, mixed = random_qkv(0), random_qkv(1), torch.tensor([[4, 2, 0, 1, 3]] * 2)
    shuffled = relation_loss(restricted(one, mixed), restricted(two, mixed))
    assert float(shuffled) == pytest.approx(float(relation_loss(one, two)), abs=1e-6)
    q = restricted(one, mixed)[0]
    torch.testing.assert_close(relation_logits(q, q)[0], relation_logits(one[0], one[0])[0][:, mixed[0]][..., mixed[0]])


def test_heads_are_regrouped_by_channel():
    x = torch.arange(24.0).view(1, 2, 3, 4)  # two heads of four channels
    together = x.transpose(1, 2).flatten(2)
    for heads in (1, 2, 4, 8):
        again = regroup(x, heads).transpose(1, 2).flatten(2)
        assert torch.equal(again, together)
        assert regroup(x, heads).shape == (1, heads, 3, 8 // heads)
    assert torch.equal(regroup(x, 2), x)
    assert regroup(x, None) is x


def test_the_most_usual_tokens_leave():
    """Five tokens point almost one way, the sixth and third do not: they stay first."""
    tokens = torch.tensor([[[1, 0.0], [1, 0.1], [-1, 0.2], [1, 0.05], [1, -0.1], [0.1, 1]]])
    direction = F.normalize(tokens, dim=-1)
    likeness = (direction * direction.mean(1, keepdim=True)).sum(-1)[0]
    assert unusual_tokens(tokens, 2).tolist() == [[2, 5]]
    assert unusual_tokens(tokens, 4).tolist() == [sorted(likeness.argsort()[:4].tolist())]
    torch.testing.assert_close(unusual_tokens(tokens * 7, 4), unusual_tokens(tokens, 4))


def test_tokens_that_are_all_alike_leave_last_first():
    assert unusual_tokens(torch.ones(2, 8, 4), 5).tolist() == [[0, 1, 2, 3, 4]] * 2
    assert unusual_tokens(torch.zeros(1, 8, 4), 3).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(("keep", "counts"), [(0.75, [196, 147, 110, 82]), (0.5, [196, 98, 49, 24])])
def test_as_many_tokens_leave_as_in_the_table(keep, counts):
    encoder = ViT(vit_spec("nano", {"rgb": RGB}, ImageGeometry(window_px=112), patch_px=8, dim=16, depth=12, heads=2))
    module, seen = method(encoder=encoder, relation=masked_teacher(dim=16, depth=12), keep=keep), []
    assert module.stages == {0, 4, 8}
    for block in encoder.blocks:
        block.attention.register_forward_pre_hook(lambda *_: None)
        finish = block.finish
        block.finish = lambda x, qkv, positions, f=finish: seen.append(x.shape[1]) or f(x, qkv, positions)
    x = torch.randn(1, 3, 112, 112)
    tokens, ids, _, at_layer = module.run(x, torch.arange(196)[None], torch.Generator())
    assert [seen[0], seen[1], seen[5], seen[9]] == counts
    assert tokens.shape[1] == ids.shape[1] == at_layer.shape[1] == counts[-1]


def test_ids_of_what_is_left_are_right_over_all_stages():
    """Blocks that change nothing, and tokens that are their own number: what comes out names itself."""
    encoder = student(dim=8, class_token=True)
    for block in encoder.blocks:
        block.finish = lambda x, qkv, positions: x
    start = encoder.start

    def numbered(x, ids):
        tokens, positions = start(x, ids)
        g = torch.Generator().manual_seed(0)
        names = torch.cat([ids[..., None].float(), torch.randn(*ids.shape, 7, generator=g)], dim=-1)
        return torch.cat([tokens[:, :1], names], dim=1), positions

    encoder.start, encoder.norm = numbered, torch.nn.Identity()
    module = method(encoder=encoder, keep=0.5)
    tokens, ids, _, _ = module.run(torch.zeros(2, 3, 32, 32), torch.arange(16).expand(2, -1), torch.Generator())
    assert tokens.shape == (2, 2, 8)
    assert torch.equal(tokens[..., 0].long(), ids)


def test_keeping_all_tokens_is_dropping_none():
    plain, none = method(keep=1.0), method(keep=1.0, dropping="random")
    assert all(torch.equal(plain.losses(batch())[k], none.losses(batch())[k]) for k in ("feature", "relation"))
    x = plain.encoder.normalize({"rgb": batch()["rgb"]})
    everything = torch.arange(16).expand(6, -1)
    assert torch.equal(plain.run(x, everything, torch.Generator())[0], plain.encoder(x, everything))


@pytest.mark.parametrize("bands", [2, 3, 12])
@pytest.mark.parametrize("size", [(120, 120), (96, 160)])
def test_any_bands_and_sizes_and_the_same_for_a_seed(bands, size):
    sensor = {"bands": replace(numbered_bands(bands), std=(1.0,) * bands)}
    data = {"bands": torch.randn(2, bands, *size), "valid": torch.ones(2, *size, dtype=torch.bool)}
    teacher = EncoderTeacher(vit(sensor, seed=5))

    def losses():
        own = HybridDistill(vit(sensor, depth=3), OPTIM, teacher, teacher, relations=Relations((-2, -1)))
        return own.losses(data)

    one, two = losses(), losses()
    assert all(one[name].isfinite() and torch.equal(one[name], two[name]) for name in ("feature", "relation"))


def test_targets_follow_the_tokens_that_are_left(monkeypatch):
    """A teacher that tells places: the targets are those of the ids that stayed."""
    module, seen = method(), {}
    module.feature_teacher.features = lambda *_: torch.eye(16).expand(6, 16, 16)
    module.head = torch.nn.Linear(32, 16)
    run = module.run
    monkeypatch.setattr(module, "run", lambda *a: seen.setdefault("out", run(*a)))
    watch = "geossl.methods.hybrid_distill.feature_loss"
    monkeypatch.setattr(watch, lambda found, target, kind: seen.setdefault("target", target).sum())
    module.losses(batch())
    assert seen["out"][1].shape == (6, 6)
    assert torch.equal(seen["target"].argmax(-1), seen["out"][1])


def test_gradients_go_where_they_are_due():
    module = method(keep=1.0, relations=Relations((-2, -2)))

    def reached(term):
        module.zero_grad()
        module.losses(batch())[term].backward()
        return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}

    everything = {name for name, _ in module.named_parameters()}
    assert reached("feature") == everything
    relation = reached("relation")
    later = ("encoder.blocks.5", "encoder.norm", "head", "encoder.blocks.4.attention.to_out", "encoder.blocks.4.feed")
    assert not [name for name in relation if name.startswith(later)]
    assert relation == {name for name in everything if not name.startswith(later)}


def test_both_teachers_stay_as_they_are():
    module = method()
    before = [{n: x.clone() for n, x in t.model.state_dict().items()} for t in teachers_of(module)]
    optimizer = module.optim.build(module)
    module.train()
    for _ in range(3):
        optimizer.zero_grad()
        sum(module.losses(batch()).values()).backward()
        optimizer.step()
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for teacher, state in zip(teachers_of(module), before, strict=True):
        assert all(torch.equal(x, state[n]) for n, x in teacher.model.state_dict().items())
        assert not any(m.training for m in teacher.model.modules())
        assert all(p.grad is None and id(p) not in held for p in teacher.model.parameters())
    assert not any("teacher" in name for name in module.state_dict())


def teachers_of(module):
    return module.feature_teacher, module.relation_teacher


def test_a_teacher_without_weight_is_not_asked():
    teacher = Norms()
    module = method(feature=teacher, feature_weight=0.0)
    assert list(module.losses(batch())) == ["relation"]
    assert teacher.asked == 0
    alone = method(feature=None, feature_weight=0.0)
    assert torch.equal(alone.losses(batch())["relation"], module.losses(batch())["relation"])
    without = method(relation=None, relation_weight=0.0).losses(batch())
    assert list(without) == ["feature"]
    assert torch.equal(without["feature"], method().losses(batch())["feature"])
    with pytest.raises(ValueError, match="nothing to learn from"):
        method(feature=None, relation=None)


def test_heads_must_agree_or_be_regrouped():
    with pytest.raises(InputError, match="the student has 2 heads, the teacher 4; give the student as many"):
        method(relation=masked_teacher(heads=4)).losses(batch())
    wide = masked_teacher(dim=64, heads=4)
    assert method(relation=wide, relations=Relations(heads=4)).losses(batch())["relation"].isfinite()
    same = method(relations=Relations(heads=2)).losses(batch())["relation"]
    assert torch.equal(same, method().losses(batch())["relation"])


def test_layers_must_exist():
    with pytest.raises(InputError, match="student layer -7 does not exist; the student has 6 blocks"):
        method(relations=Relations((-7, -1)))
    with pytest.raises(InputError, match="layer 6 of teacher vit_nano does not exist; it has 6 blocks"):
        method(relations=Relations((-2, 6)))
    with pytest.raises(InputError, match="it has 0 blocks"):
        method(relation=EncoderTeacher(CROMAEncoder(croma_spec("tiny", dim=32, depth=2, heads=8))))
    norms = Norms()
    with pytest.raises(WeightsError, match="norms has no token relations"):
        norms.relations(batch(), (4, 4), 0)


@pytest.mark.parametrize(
    ("setting", "value", "term"),
    [
        ("feature_weight", 2.0, "feature"),
        ("relation_weight", 2.0, "relation"),
        ("feature_loss", "cosine", "feature"),
        ("relations", Relations((-3, -2)), "relation"),
        ("relations", Relations((-2, -3)), "relation"),
        ("relations", Relations(heads=4), "relation"),
        ("relations", Relations(kinds=("qk",)), "relation"),
        ("relations", Relations(kinds=("qq", "kk", "vv")), "relation"),
        ("keep", 0.5, "feature"),
        ("dropping", "random", "feature"),
    ],
)
def test_every_setting_changes_the_loss(setting, value, term):
    plain, changed = method().losses(batch()), method(**{setting: value}).losses(batch())
    assert not torch.equal(plain[term], changed[term])


def test_unusable_patches_leave_before_the_first_block():
    valid = torch.rand(3, 16, generator=torch.Generator().manual_seed(0)) > 0.3
    ids = equally_many(valid, torch.Generator().manual_seed(0))
    assert ids.shape[1] == int(valid.sum(1).min())
    assert all(valid[row, ids[row]].all() for row in range(3))
    assert (ids.diff(dim=1) > 0).all()
    module, data = method(), batch()
    data["valid"][1] = False
    data["valid"][2, :16, :16] = False
    data["rgb"][2, :, :16, :16] = torch.nan
    assert all(x.isfinite() for x in module.losses(data).values())
    assert float(module.logged_scalars["left_out"]) == 1
    with pytest.raises(RunError, match="no image of a batch has 4 valid patches"):
        module.losses({**data, "valid": torch.zeros_like(data["valid"])})


@pytest.mark.parametrize("position", ["sincos", "alibi"])
def test_it_learns_one_batch(position):
    module = method(encoder=student(position=position), keep=0.75)
    optimizer, first = module.optim.build(module), None
    for _ in range(40):
        losses = module.losses(batch())
        first = first or {name: float(x.detach()) for name, x in losses.items()}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert float(losses["feature"].detach()) < first["feature"] / 2
    assert float(losses["relation"].detach()) < first["relation"] / 2
    assert float(module.logged_scalars["relation_of_uniform"]) > 0


def test_losses_fall_on_held_out_chips_of_the_bundled_scenes():
    sensor = {"s2": S2}
    teachers = [EncoderTeacher(vit(sensor, seed=i, side=48, depth=3)) for i in (3, 4)]
    with torch.no_grad():
        for p in teachers[1].model.parameters():  # random weights attend to everything alike; these do not
            p *= 2
    optim = OptimConfig("adamw", 2e-3, (0.9, 0.95), 0.05, "constant", 5, 150)
    module = HybridDistill(vit(sensor, side=48, depth=3).train(), optim, *teachers)
    before, after = losses_around_training(module, *bundled_chips(48, 150))
    assert float(after["feature"]) < 0.6 * float(before["feature"])
    assert float(after["relation"]) < 0.9 * float(before["relation"])


QUICK = ["train.max_steps=2", "train.log_every=1", "data.batch_size=2", "data.chip_px=48", "data.crop_px=null"]
QUICK += ["encoder.window_px=48", "encoder.halo_px=8", "encoder.statistics=published"]


def test_a_run_exports_a_student_that_embeds_without_its_teachers(tmp_path, caplog):
    caplog.set_level("INFO", logger="geossl")
    torch.manual_seed(0)
    croma = CROMAEncoder(croma_spec("tiny", dim=32, depth=2, heads=8))
    mae = vit({"s2": S2}, side=48, heads=4, depth=4, position="alibi")
    save_encoder(tmp_path / "c.safetensors", croma, {})
    save_encoder(tmp_path / "m.safetensors", mae, {})
    names = [f"teachers.feature.name={tmp_path}/c.safetensors", f"teachers.relation.name={tmp_path}/m.safetensors"]
    with pytest.warns(Note) as notes:
        run = geossl.pretrain(recipe.load("hybrid_distill", [*QUICK, *names, f"out={tmp_path}/r"]))
    texts = [str(note.message) for note in notes]
    assert any("features of teacher croma_tiny (layer -1) are nearly the same" in text for text in texts)
    assert any("attention of teacher vit_nano in layer 2 is nearly uniform" in text for text in texts)
    assert caplog.text.count("same patches") == 2
    header = (run / "metrics.csv").read_text().splitlines()[0]
    assert header == "step,loss,feature,relation,left_out,relation_of_uniform,lr"
    encoder = geossl.load_encoder(run / "encoder.safetensors")
    assert encoder.spec.name == "hybrid_distill_nano"
    assert set(encoder.state_dict()) == set(ViT(encoder.spec).state_dict())
    source = geossl.Rasters(s2="geossl/data/sample/s2")
    file = run / "encoder.safetensors"
    geossl.embed_map("examples/region.geojson", source, encoder=file, out=tmp_path / "map.tif", picture=False)
    assert np.isfinite(geossl.open(tmp_path / "map.tif").values).mean() > 0.2


def test_heads_that_differ_are_told_before_anything_is_written(tmp_path):
    save_encoder(tmp_path / "m.safetensors", vit({"s2": S2}, side=48), {})
    names = [f"teachers.relation.name={tmp_path}/m.safetensors", "objective.feature_weight=0"]
    with pytest.raises(InputError, match="the student has 4 heads, the teacher 2"):
        geossl.pretrain(recipe.load("hybrid_distill", [*QUICK, *names, f"out={tmp_path}/r"]))
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teachers.relation=null", "objective.relation_weight=1 needs teachers.relation; 0 does without"),
        ("teachers.feature={kind: timm, name: resnet18}", "teachers.feature.weights is missing"),
        ("objective={feature_weight: 0, relation_weight: 0}", "are both 0; nothing would be learned"),
        ("objective.keep=0", "greater than 0"),
        ("objective.dropping=redundnt", "'redundant' or 'random'"),
        ("teachers.relation.layer=last", "teachers.relation.layer"),
        ("teachers.relation.lyer=1", "did you mean 'layer'"),
    ],
)
def test_wrong_recipes_say_what_was_expected(override, message):
    with pytest.raises(RecipeError, match=message):
        recipe.load("hybrid_distill", [override])
