"""Classes of images as classes of graphs: superpixels of every image, GraphMAE's GIN, pooled, and an SVM.

Every image of a labelled set becomes a graph of superpixels that touch. GraphMAE learns from the graphs of the training
images without their classes. Every row is pooled in two ways, as the mean over an image's nodes (the published readout)
and as their mean and standard deviation, and judged by the same support vector machine (RBF, C chosen in five folds of
the training images, vectors standardised), which learns from training images and is scored on test images: official
split if the set has one, else blocked or random as in ``geossl evaluate``. Rows:

* what the nodes hold, without any encoder;
* the encoder before training, and after it;
* the encoder with layer norm in place of batch norm, before and after, with as many updates;
* "statistics of whole graphs": batch norm learned its running statistics from graphs half of whose nodes are masked;
  here they are measured once more on the training graphs as they are, without any further update;
* the trained encoder beside what the nodes hold.

And what the training task is worth: the error GraphMAE is trained on, of the hidden half of the nodes of test images,
beside what needs no training: the mean of a node's visible neighbours (of the second ring where it has none), and a
least-squares mixture of the means of neighbours, second ring and image, fitted on training images.

Accuracy in percent, mean +- standard deviation over seeds; brackets: 95 % over draws of test images (and of seeds),
the same draws for every row, so that the differences below the table have intervals, too. The last column says what
of an image's mean band values a ridge regression finds in the vector (R2 on test images): what an encoder has dropped,
no head finds.

SET: a folder with train/CLASS/*.jpg and test/CLASS/*.jpg (EuroSAT's, say), or .npz as of ``geossl evaluate``.

Run: python benchmarks/graph_images.py SET [--seeds 3] [--out runs/graph_images] [--set train.max_steps=600]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

import geossl
from geossl import recipe as recipes
from geossl.api.pretrain import run as pretraining
from geossl.data.datasets.find import read_set
from geossl.data.graphs.files import read_graph
from geossl.evaluation.svm import C_FOLDS
from geossl.inference.graphs import node_embeddings
from geossl.methods.graphmae import random_mask, scaled_cosine_error

SETTINGS = [  # ours, not tuned
    "encoder.kind=gin",
    "encoder.norm=batch",
    "objective.decoder=gin",
    "objective.replace_ratio=0",
    "data.batch_graphs=64",
    "train.max_steps=600",
]
ARMS = {"": [], ", layer norm": ["encoder.norm=layer"]}  # what follows a row's name, and recipe values
PLAIN = "node features"
READOUTS = ("mean", "mean and standard deviation")
DRAWS = 1000


def part_of(graphs, chosen):
    """Some of the graphs, as a union of their own."""
    number = np.full(len(chosen), -1)
    number[chosen] = np.arange(chosen.sum())
    kept = torch.from_numpy(chosen)[graphs.batch]
    part = graphs.subgraph(kept)
    part.batch = torch.from_numpy(number)[part.batch]
    part.graph_y = graphs.graph_y[torch.from_numpy(chosen)]
    return part


def right(x, y, train):
    """Which test images the machine gets right."""
    x = StandardScaler().fit(x[train]).transform(x)
    near = np.exp(-euclidean_distances(x, x[train], squared=True) / x.shape[1])
    machine = GridSearchCV(SVC(kernel="precomputed"), {"C": C_FOLDS}, cv=5).fit(near[train], y[train])
    return machine.predict(near[~train]) == y[~train]


def pooled(owner, x):
    """Node vectors by image: their mean, and that with their standard deviation."""
    sizes = np.bincount(owner)[:, None]
    mean = np.stack([np.bincount(owner, column) for column in x.T], axis=1) / sizes
    square = np.stack([np.bincount(owner, column**2) for column in x.T.astype(float)], axis=1) / sizes
    return mean, np.hstack([mean, np.sqrt(np.maximum(square - mean**2, 0))])


def level_kept(x, levels, train):
    """R2 of the images' mean band values from a vector, on test images."""
    x, y = (StandardScaler().fit(v[train]).transform(v) for v in (x, levels))
    return RidgeCV(np.logspace(-2, 4, 7)).fit(x[train], y[train]).score(x[~train], y[~train])


def settled(encoder, graphs):
    """The encoder with batch statistics measured on whole graphs; its weights stay."""
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.reset_running_stats()
            module.momentum = None  # plain average over batches
    encoder.train()
    with torch.no_grad():
        for first in range(0, int(graphs.batch.max()) + 1, 64):
            chosen = (graphs.batch >= first) & (graphs.batch < first + 64)
            part = graphs.subgraph(chosen)
            encoder(encoder.normalize(part.x), part.edge_index)
    return encoder.eval()


def recipe_of(arm, file, seed, args):
    """The recipe of a run."""
    out = args.out / f"graphmae{arm.replace(', ', '_').replace(' ', '_')}_{seed}"
    values = [f"data.source={file}", f"train.seed={seed}", f"out={out}", "resume=true"]
    return recipes.load("graphmae", [*SETTINGS, *values, *ARMS[arm], *args.changes])


def encoders_of(arm, file, seed, args):
    """Name and encoder of an arm's rows."""
    recipe = recipe_of(arm, file, seed, args)
    torch.manual_seed(seed)
    yield f"GraphMAE before training{arm}", pretraining.prepare(recipe)[1]().encoder
    path = Path(recipe.out, "encoder.safetensors")
    if not path.exists():
        geossl.pretrain(recipe)
    yield f"GraphMAE{arm}", geossl.load_encoder(path)
    if recipe.encoder.norm == "batch":
        graphs = read_graph(file)
        torch.manual_seed(seed)
        fresh = pretraining.prepare(recipe)[1]().encoder
        yield f"GraphMAE before training{arm}, statistics of whole graphs", settled(fresh, graphs)
        yield f"GraphMAE{arm}, statistics of whole graphs", settled(geossl.load_encoder(path), graphs)


def methods_of(arm, file, seed, args):
    """Name and method, with its decoder, before and after training."""
    recipe = recipe_of(arm, file, seed, args)
    for name, is_trained in ((f"GraphMAE before training{arm}", False), (f"GraphMAE{arm}", True)):
        torch.manual_seed(seed)
        module = pretraining.prepare(recipe)[1]()
        if is_trained:
            path = Path(recipe.out, "checkpoints/last.ckpt")
            module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        yield name, module.eval()


def means_around(x, edge_index, owner, hidden):
    """Means of the visible nodes: neighbours, second ring and image; (nodes, 3, features)."""
    source, target = edge_index
    shown = (~hidden).to(x)[:, None]
    near = torch.zeros_like(x).index_add(0, target, (x * shown)[source])
    count = torch.zeros_like(shown).index_add(0, target, shown[source])
    far = torch.zeros_like(x).index_add(0, target, near[source])
    more = torch.zeros_like(shown).index_add(0, target, count[source])
    images = int(owner.max()) + 1
    whole = x.new_zeros(images, x.shape[1]).index_add(0, owner, x * shown)
    size = x.new_zeros(images, 1).index_add(0, owner, shown)
    far = far / more.clamp(min=1)
    near = torch.where(count > 0, near / count.clamp(min=1), far)
    return torch.stack([near, far, (whole / size.clamp(min=1))[owner]], dim=1)


@torch.inference_mode()
def hidden_errors(graphs, train, file, seed, args):
    """Error of the hidden nodes of test images, by row."""
    parts = [part_of(graphs, chosen) for chosen in (train, ~train)]
    methods = dict(pair for arm in ARMS for pair in methods_of(arm, file, seed, args))
    own = next(iter(methods.values()))
    scaled = [own.encoder.normalize(part.x) for part in parts]
    rng = torch.Generator().manual_seed(seed)
    masks = [random_mask(len(x), own.mask_ratio, 0, rng) for x in scaled]
    rows = [mask.hidden for mask in masks]
    hidden = [torch.zeros(len(x), dtype=torch.bool).index_fill(0, r, True) for x, r in zip(scaled, rows, strict=True)]
    around = [
        means_around(x, part.edge_index, part.batch, h)[r]
        for part, x, h, r in zip(parts, scaled, hidden, rows, strict=True)
    ]
    wanted = [x[r] for x, r in zip(scaled, rows, strict=True)]
    mixture = torch.linalg.lstsq(around[0].flatten(1), torch.nn.functional.normalize(wanted[0], dim=1)).solution
    found = {
        "mean of the visible neighbours, no training": scaled_cosine_error(around[1][:, 0], wanted[1], own.gamma),
        "least-squares mixture of three means": scaled_cosine_error(
            around[1].flatten(1) @ mixture, wanted[1], own.gamma
        ),
    }
    found |= {name: method.loss_of(parts[1], masks[1]) for name, method in methods.items()}
    return {name: float(error) for name, error in found.items()}


def text_of(found):
    """Mean, spread and interval; ``found`` (seeds, test images)."""
    low, high = np.percentile(drawn(found), [2.5, 97.5])
    own = [100 * row.mean() for row in found]
    return f"{np.mean(own):.1f} +- {np.std(own):.1f} [{low:.1f}, {high:.1f}]"


def drawn(found):
    """Accuracy in percent, over draws of test images and of seeds; seeds may have other test images."""
    rng = np.random.default_rng(0)
    seeds = rng.integers(len(found), size=(DRAWS, len(found)))
    means = []
    for row in found:
        weights = np.random.default_rng(len(row)).multinomial(len(row), np.full(len(row), 1 / len(row)), size=DRAWS)
        means.append(100 * weights @ np.asarray(row, float) / len(row))
    return np.stack(means)[seeds, np.arange(DRAWS)[:, None]].mean(axis=1)


def less(ours, other):
    """Difference and its interval."""
    gaps = drawn([np.asarray(a, float) - b for a, b in zip(ours, other, strict=True)])
    low, high = np.percentile(gaps, [2.5, 97.5])
    value = 100 * np.mean([a.mean() - b.mean() for a, b in zip(ours, other, strict=True)])
    mark = "**" if low > 0 or high < 0 else ""
    return f"{mark}{value:+.1f} [{low:+.1f}, {high:+.1f}]{mark}"


def show(rows, levels, title):
    """Both tables."""
    kept = " | ".join(f"R2 of band means, {how}" for how in READOUTS)
    print(f"| {title} | {' | '.join(READOUTS)} | {kept} |\n|---|---|---|---|---|")
    names = list(dict.fromkeys(name for name, _ in rows))
    for name in names:
        cells = [text_of(rows[name, how]) for how in READOUTS]
        cells += [f"{np.mean(levels[name, how]):.2f}" for how in READOUTS]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n| difference, % | {' | '.join(READOUTS)} |\n|---|---|---|")
    before = [(name, name.replace("GraphMAE", "GraphMAE before training", 1)) for name in names]
    pairs = [pair for pair in before if pair[1] in names and pair[0] != pair[1]] + [(name, PLAIN) for name in names[1:]]
    for ours, other in pairs:
        print(f"| {ours} less {other} | {' | '.join(less(rows[ours, how], rows[other, how]) for how in READOUTS)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--segment-px", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("runs/graph_images"))
    parser.add_argument("--set", dest="changes", nargs="*", default=[])
    args = parser.parse_args()
    images, out = read_set(args.set), args.out
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    if not (out / "graphs.npz").exists():
        geossl.graphs.write(out / "graphs.npz", geossl.graphs.from_images(args.set, segment_px=args.segment_px))
    graphs, y = read_graph(out / "graphs.npz"), images.labels
    owner = graphs.batch.numpy()
    print(f"{len(y)} graphs of {graphs.num_nodes / len(y):.0f} nodes  {time.monotonic() - started:.0f} s", flush=True)
    scaled = StandardScaler().fit_transform(graphs.x.numpy())
    share = np.linalg.svd(scaled, compute_uv=False) ** 2 / scaled.size
    print(
        f"{scaled.shape[1]} features; share of variance in the first two directions {share[:2].sum():.2f}", flush=True
    )
    rows, levels, errors = {}, {}, {}
    plain = pooled(owner, graphs.x.numpy())
    for seed in range(args.seeds):
        train = images.parts("auto", seed) != 2
        file = geossl.graphs.write(out / f"train{seed}.npz", part_of(graphs, train))
        vectors = {PLAIN: plain}
        for arm in ARMS:
            for name, encoder in encoders_of(arm, file, seed, args):
                vectors[name] = pooled(owner, node_embeddings(encoder, graphs))
        beside = zip(vectors["GraphMAE"], plain, strict=True)
        vectors[f"GraphMAE beside {PLAIN}"] = [np.hstack(pair) for pair in beside]
        for name, pair in vectors.items():
            for how, x in zip(READOUTS, pair, strict=True):
                rows.setdefault((name, how), []).append(right(x, y, train))
                levels.setdefault((name, how), []).append(level_kept(x, plain[0][:, : plain[0].shape[1] // 2], train))
            print(seed, name, [f"{100 * rows[name, how][-1].mean():.1f}" for how in READOUTS], flush=True)
        for name, error in hidden_errors(graphs, train, file, seed, args).items():
            errors.setdefault(name, []).append(error)
    show(rows, levels, f"{images.how('auto')} split, {(~train).sum()} test images")
    print("\n| hidden nodes of test images | error that is trained |\n|---|---|")
    for name, values in errors.items():
        print(f"| {name} | {np.mean(values):.3f} +- {np.std(values):.3f} |")


if __name__ == "__main__":
    main()
