"""The optimiser a recipe asks for."""

from collections.abc import Sequence
from dataclasses import replace

from geossl.methods.base import OptimConfig
from geossl.recipe.sections import FromWeights, Train


def optim_config(train: Train, encoder: FromWeights | None = None) -> OptimConfig:
    """Optimiser and schedule of the ``train`` section, gentler to weights that ``encoder`` starts from."""
    is_gentle = encoder is not None and encoder.init is not None
    return OptimConfig(
        optimizer=train.optimizer,
        lr=train.lr,
        betas=train.betas,
        weight_decay=train.weight_decay,
        decay_all=train.decay_all,
        schedule=train.schedule,
        warmup_steps=int(train.warmup_share * train.max_steps),
        max_steps=train.max_steps,
        final_share=train.final_share,
        fused=train.fused,
        encoder_share=encoder.init_lr if encoder is not None and is_gentle else 1.0,
        encoder_warmup=int(encoder.init_warmup * train.max_steps) if encoder is not None and is_gentle else 0,
    )


def lengthened(optim: OptimConfig, train: Train, changes: Sequence[Sequence[int]]) -> OptimConfig:
    """The schedule of a run that was given more steps while it ran, or after it had ended.

    Args:
        optim: That of a run which has all steps from the start.
        train: The recipe's section.
        changes: Step and number of steps until then, for every time.
    """

    def of(max_steps: int) -> OptimConfig:
        gentle = round(optim.encoder_warmup * max_steps / optim.max_steps)
        warmup = int(train.warmup_share * max_steps)
        return replace(optim, max_steps=max_steps, warmup_steps=warmup, encoder_warmup=gentle)

    if not changes:
        return optim
    found = of(changes[0][1])
    for (start, _), longer in zip(changes, [*(change[1] for change in changes[1:]), train.max_steps], strict=True):
        found = replace(of(longer), before=found, start=start)
    return found
