"""The optimiser a recipe asks for."""

from geossl.methods.base import OptimConfig
from geossl.recipe.sections import Train


def optim_config(train: Train) -> OptimConfig:
    """Optimiser and schedule of the ``train`` section."""
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
    )
