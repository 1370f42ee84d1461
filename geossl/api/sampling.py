"""Draw from the density an auto-encoder learned, and show the draws beside real vectors."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray

from geossl.api.pretrain import regularized_ae
from geossl.errors import InputError, Note
from geossl.inference.sampling import MIXED, Chains, Draws, metropolis_hastings
from geossl.models.encoders.score_autoencoder import PatchAutoencoder, VectorAutoencoder
from geossl.models.files import load_encoder, provenance
from geossl.outputs import check_output, replacing
from geossl.recipe.regularized_ae import RegularizedAERecipe
from geossl.sensors import SENSORS, SensorSpec

SHOWN = 32


def draw_samples(
    encoder: str | Path,
    out: str | Path = "samples.png",
    *,
    chains: int = 256,
    kept: int = 4,
    thin: int = 100,
    burn_in: int = 500,
    seed: int = 0,
) -> Chains:
    """Sample by Metropolis-Hastings from what a regularized auto-encoder learned; a figure of real and drawn vectors.

    Where chains do not agree (split R-hat above 1.1, as where the data fall apart into separate kinds), a note says so:
    each chain then shows its own kind well, but how many chains show a kind says nothing of how common it is.

    Args:
        encoder: Weight file of ``geossl pretrain regularized_ae``; chains begin at its training vectors, read again.
        out: Picture, ``.png``: spectra as lines, patches in true colours, real ones first.
        chains: Chains side by side.
        kept: Draws kept per chain.
        thin: Steps from one to the next.
        burn_in: Steps before the first.
        seed: Seeds the chains and their starts.

    Returns:
        The chains, in physical units, with acceptance, split R-hat and effective sample size.

    Raises:
        InputError: If the file is of another kind, or arguments do not fit; said before anything is drawn.
    """
    out = check_output(out, (".png",), option="out", makes_folder=True)
    if min(chains, kept, thin) < 1 or burn_in < 0:
        raise InputError(
            f"chains={chains}, kept={kept}, thin={thin} must be 1 or more, and burn_in={burn_in} not below 0"
        )
    found = load_encoder(encoder)
    if not isinstance(found, PatchAutoencoder | VectorAutoencoder):
        raise InputError(f"--encoder {encoder} is not from geossl pretrain regularized_ae")
    recipe = RegularizedAERecipe.model_validate(provenance(encoder)["recipe"])
    rows = regularized_ae.data(recipe).train
    rows = rows[np.random.default_rng(seed).integers(0, len(rows), chains)]
    model = found.autoencoder
    start = model.whiten(rows)
    drawn = metropolis_hastings(model.score, start, Draws(kept, thin, burn_in), seed=seed, check=False)
    if drawn.r_hat > MIXED:
        text = f"the chains do not agree (split R-hat {drawn.r_hat:.2f}); shares of kinds are those of the starts"
        warnings.warn(text, Note, stacklevel=2)
    samples = model.whiten.inverse(model.whiten.mean.new_tensor(drawn.samples)).numpy()
    figure = picture(rows.numpy()[:SHOWN], samples[-1][:SHOWN], found)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        figure.savefig(temporary, dpi=110)
    return Chains(samples, drawn.acceptance, drawn.proposal_sd, drawn.r_hat, drawn.effective)


def picture(
    real: Float[ndarray, "n c"], drawn: Float[ndarray, "n c"], encoder: PatchAutoencoder | VectorAutoencoder
) -> Figure:
    """Real and drawn vectors side by side."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    is_patch = (
        isinstance(encoder, PatchAutoencoder)
        and encoder.spec.patch_px > 1
        and coloured(encoder.spec.sensors) is not None
    )
    titles = ("training vectors", "drawn by Metropolis-Hastings")
    for axes, title, rows in zip(panels, titles, (real, drawn), strict=True):
        axes.set_title(title)
        if is_patch:
            assert isinstance(encoder, PatchAutoencoder)
            axes.imshow(mosaic(rows, encoder))
            axes.set_axis_off()
        else:
            axes.plot(rows.T, color="tab:blue", alpha=0.35, linewidth=0.8)
    if not is_patch and isinstance(encoder, PatchAutoencoder):
        bands = [band for sensor in encoder.spec.sensors.values() for band in sensor.bands]
        panels[0].set_xticks(range(len(bands)), bands, rotation=60)
        panels[0].set_ylabel(", ".join(sensor.unit for sensor in encoder.spec.sensors.values()))
    return figure


def coloured(sensors: Mapping[str, SensorSpec]) -> str | None:
    """The first sensor that has red, green and blue among its bands; None if none has."""
    known = [name for name in sensors if name in SENSORS and len(SENSORS[name].rgb) == 3]
    return next((name for name in known if {*SENSORS[name].rgb} <= {*sensors[name].bands}), None)


def mosaic(rows: Float[ndarray, "n c"], encoder: PatchAutoencoder) -> Float[ndarray, "h w 3"]:
    """Patches in true colours, eight to a row, a thin line between them."""
    patch, sensors = encoder.spec.patch_px, encoder.spec.sensors
    name = coloured(sensors)
    assert name is not None
    shown = SENSORS[name]
    names = [(sensor, band) for sensor, spec in sensors.items() for band in spec.bands]
    bands = [names.index((shown.key, band)) for band in shown.rgb]
    cells = rows.reshape(len(rows), -1, patch, patch)[:, bands].transpose(0, 2, 3, 1)
    cells = np.clip((cells - shown.black) / (shown.white - shown.black), 0, 1)
    cells = np.pad(cells, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1)
    cells = np.pad(cells, ((0, -len(cells) % 8), (0, 0), (0, 0), (0, 0)), constant_values=1)
    return np.concatenate([np.concatenate(list(row), axis=1) for row in cells.reshape(-1, 8, *cells.shape[1:])])
