"""Initial weights of linear layers, as the papers' code draws them."""

from torch import nn


def xavier(module: nn.Module) -> None:
    """Xavier-uniform linear layers with biases 0; a convolution keeps PyTorch's start. Source: MAE's code."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def truncated_normal(module: nn.Module) -> None:
    """Linear layers from a truncated normal of deviation 0.02, biases 0. Source: the code of BERT, and of Point-MAE."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
