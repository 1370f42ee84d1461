"""What regularized auto-encoders learn: scores of known densities, samples, and novelty of real spectra.

python benchmarks/regularized_ae.py --series FOLDER --clear 2020-02-02 2020-06-21 ... --cloudy 2020-01-18 ...
# FOLDER: Sentinel-2 L2A scenes of one place, DATE.tif, 12 bands, DN

Clear dates train; the west of each scene is trained on, the east is judged.
"""

import argparse
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import rasterio
import torch
from scipy.stats import ks_2samp
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from geossl.data.vectors import Vectors
from geossl.inference.sampling import Draws, metropolis_hastings
from geossl.methods.base import OptimConfig
from geossl.methods.regularized_ae import RegularizedAE
from geossl.models.encoder import EncoderSpec
from geossl.models.encoders.score_autoencoder import AutoencoderConfig, VectorAutoencoder, arguments_of
from geossl.training.progress import quiet

MEANS = torch.tensor([[-1.2, 0.0], [1.0, 0.8], [0.8, -1.0]])
SDS = torch.tensor([0.2, 0.25, 0.3])
SHARES = torch.tensor([0.35, 0.40, 0.25])


def mixture(n, seed):
    """Draws of the known density."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.multinomial(SHARES, n, replacement=True, generator=generator)
    return MEANS[which] + SDS[which, None] * torch.randn(n, 2, generator=generator)


def mixture_score(x, sigma):
    """Score of the known density smoothed by noise of width sigma."""
    var = SDS**2 + sigma**2
    log = SHARES.log() - var.log() - (x[:, None] - MEANS).square().sum(-1) / (2 * var)
    weight = log.softmax(1)[..., None]
    return (weight * (MEANS - x[:, None]) / var[:, None]).sum(1)


def train(x, steps, seed, hidden=(128, 128), fit=False, batch=512, objective=None, **form):
    """An auto-encoder fitted to vectors, by the method's own losses; whitening stays the identity unless ``fit``."""
    torch.manual_seed(seed)
    config = AutoencoderConfig(x.shape[1], x.shape[1], hidden, **form)
    spec = EncoderSpec(
        name="x",
        architecture="vector_autoencoder",
        arguments=arguments_of(config),
        dim=hidden[-1],
        source="",
        licence="",
    )
    encoder = VectorAutoencoder(spec)
    if fit:
        encoder.autoencoder.whiten.fit(x, 0.02)
    optim = OptimConfig("adam", 2e-3, (0.9, 0.999), 0.0, "cosine", 0, steps)
    rows = x.numpy()
    data = Vectors(rows, rows[:: max(1, len(rows) // 5000)], batch, steps, seed, {})
    method = RegularizedAE(encoder, optim, data.held, seed=seed, **(objective or {}))
    quiet()
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(method, datamodule=data)
    method.finish()
    return encoder.autoencoder.eval()


def agreement(found, truth):
    """Mean cosine and relative error of vectors."""
    cosine = torch.nn.functional.cosine_similarity(found, truth, dim=1).mean()
    return float(cosine), float((found - truth).norm() / truth.norm())


@torch.no_grad()
def known_density(steps, seeds):
    """Score against the analytic one, and Metropolis-Hastings against draws."""
    print("\n| sigma | form | width | cosine to p_sigma | rel. error | cosine to p |\n|---|---|---|---|---|---|")
    cases = [
        (0.1, "residual", 128),
        (0.2, "residual", 128),
        (0.2, "residual", 8),
        (0.2, "plain", 128),
        (0.3, "residual", 128),
    ]
    kept = {}
    for sigma, form, width in cases:
        rows = []
        for seed in range(seeds):
            with torch.enable_grad():
                model = train(mixture(20_000, seed), steps, seed, (width, width), sigma=sigma, parameterisation=form)
            x = mixture(5000, 100 + seed)
            rows.append(
                [
                    *agreement(model.score(x), mixture_score(x, sigma)),
                    agreement(model.score(x), mixture_score(x, 0.0))[0],
                ]
            )
            kept[sigma, form, width, seed] = model
        mean, std = np.mean(rows, 0), np.std(rows, 0)
        cells = " | ".join(f"{m:.3f} +- {s:.3f}" for m, s in zip(mean, std, strict=True))
        print(f"| {sigma} | {form} | {width} | {cells} |")
    print("\n| sampled from | step | points | accepted | R-hat | KS p (x, y) | shares (0.35 0.40 0.25) |")
    print("|---|---|---|---|---|---|---|")
    cases = [(f"learned score, sigma {s}", kept[s, "residual", 128, 0].score, s) for s in (0.1, 0.2, 0.3)]
    for name, score, sigma in [*cases, ("exact score, sigma 0.2", partial(mixture_score, sigma=0.2), 0.2)]:
        noise = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(9))
        truth = mixture(20_000, 50) + sigma * noise
        for points in (5, 1):
            found = metropolis_hastings(
                score, mixture(1000, 7), Draws(4, 100, 300), proposal_sd=0.8, path_points=points, check=False
            )
            x = torch.from_numpy(found.samples).reshape(-1, 2)
            p = [ks_2samp(x[:, i], truth[:, i]).pvalue for i in range(2)]
            share = torch.bincount(torch.cdist(x, MEANS).argmin(1), minlength=3) / len(x)
            print(
                f"| {name} | 0.8 | {points} | {found.acceptance:.2f} | {found.r_hat:.3f} | {p[0]:.2g}, {p[1]:.2g} | "
                f"{' '.join(f'{s:.3f}' for s in share.tolist())} |"
            )


def spectra(path):
    """Reflectance of all pixels of a scene: (h, w, 12)."""
    with rasterio.open(path) as file:
        return file.read().astype(np.float32).transpose(1, 2, 0) / 10_000


def mahalanobis(train_z, z):
    """Distance to the mean in whitened units."""
    return ((z - train_z.mean(0)) ** 2 / train_z.var(0)).sum(1)


def real_spectra(folder, clear, cloudy, steps, seeds):
    """Area under the ROC curve for oddities, real and inserted, among pixels of held-out ground on clear dates."""
    scenes = {date: spectra(folder / f"{date}.tif") for date in [*clear, *cloudy]}
    cut = 260
    rng = np.random.default_rng(0)
    west = np.concatenate([scenes[d][:, :cut].reshape(-1, 12) for d in clear])
    east = np.concatenate([scenes[d][:, cut + 10 :].reshape(-1, 12) for d in clear])
    west, east = west[rng.permutation(len(west))[:60_000]], east[rng.permutation(len(east))[:6000]]
    odd = {}
    for date in cloudy:
        bright = scenes[date][:, cut + 10 :].reshape(-1, 12)
        bright = bright[bright[:, 1] > 0.25]  # blue: clouds, whatever they cover
        odd[f"clouds of {date} (real)"] = bright[rng.permutation(len(bright))[:3000]]
    some = east[rng.permutation(len(east))[:3000]]
    swir = some.copy()
    swir[:, 10:] *= 0.4
    odd["SWIR x 0.4 (inserted)"] = swir
    red = some.copy()
    red[:, 2:4] *= 1.6
    odd["green and red x 1.6 (inserted)"] = red
    odd["haze +0.06 (inserted)"] = some + 0.06
    burnt = some.copy()
    burnt[:, 7:9] *= 0.45
    burnt[:, 11] *= 1.5
    odd["burn-like: NIR x 0.45, B12 x 1.5 (inserted)"] = burnt
    odd["mixtures of two pixels (inserted)"] = (some + some[rng.permutation(len(some))]) / 2
    names = ["auto-encoder, score", "auto-encoder, energy", "Mahalanobis", "PCA residual"]
    found = {name: {key: [] for key in odd} for name in names}
    for seed in range(seeds):
        model = train(torch.from_numpy(west), steps, seed, (256, 256), fit=True, sigma=0.2)
        with torch.inference_mode():
            ways = judges(model, west)
            for name in names:
                normal = ways[name](east)
                for key, pixels in odd.items():
                    truth = np.r_[np.zeros(len(normal)), np.ones(len(pixels))]
                    found[name][key].append(roc_auc_score(truth, np.r_[normal, ways[name](pixels)]))
            uniform = model.novelty(torch.from_numpy(east)).p_value.numpy()
    print(
        f"\n{len(west)} training, {len(east)} normal, 3000 odd spectra; share of normal ones with p < 0.05: "
        f"{(uniform < 0.05).mean():.3f} (last seed)"
    )
    print("\n| oddity | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for key in odd:
        print(
            f"| {key} | "
            + " | ".join(f"{np.mean(found[n][key]):.3f} +- {np.std(found[n][key]):.3f}" for n in names)
            + " |"
        )


def judges(model, west):
    """Ways to say how odd spectra are."""
    white = model.whiten(torch.from_numpy(west)).numpy()
    pca = PCA(4).fit(west)
    return {
        "auto-encoder, score": lambda x: model.novelty(torch.from_numpy(x)).score_norm.numpy(),
        "auto-encoder, energy": lambda x: model.novelty(torch.from_numpy(x)).energy.numpy(),
        "Mahalanobis": lambda x: mahalanobis(white, model.whiten(torch.from_numpy(x)).numpy()),
        "PCA residual": lambda x: ((x - pca.inverse_transform(pca.transform(x))) ** 2).sum(1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=Path, help="folder with DATE.tif")
    parser.add_argument("--clear", nargs="+", default=[], help="dates without clouds")
    parser.add_argument("--cloudy", nargs="+", default=[], help="dates with clouds")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4000)
    given = parser.parse_args()
    known_density(given.steps, given.seeds)
    if given.series:
        real_spectra(given.series, given.clear, given.cloudy, given.steps, given.seeds)


if __name__ == "__main__":
    main()
