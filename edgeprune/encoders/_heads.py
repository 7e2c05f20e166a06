"""The classifiers of transformers' ...ForImageClassification: linear layers on special tokens and a mean of patches.

    logits = W x + b                       x: the rows that it reads, side by side
    logits = mean over i of (W_i x_i + b_i)       one layer for each row (DeiT with its teacher's token)

Which rows these are is the family's to say; of the patches it averages those that are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, Head, Tower
from edgeprune.errors import ModelError

__all__ = ["Classifier", "with_classifier"]


class Classifier(nn.Module):
    """[B, R, C] -> logits [B, classes], in a tuple.

    layers: one on all rows side by side, or one for each of them, whose logits are averaged
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        if len(self.layers) == 1:
            return (self.layers[0](x.flatten(1)),)
        each = [layer(x[:, at]) for at, layer in enumerate(self.layers)]
        return (torch.stack(each).mean(dim=0),)


def with_classifier(
    family: str,
    checkpoint: Checkpoint,
    tower: Tower,
    rows: Sequence[int],
    *,
    mean: bool = False,
    names: Sequence[str] = ("classifier",),
) -> Encoder:
    """An encoder that gives logits, by the checkpoint's own classifier on last_hidden_state.

    rows, mean: as in `Head`
    names: of its linear layers in the checkpoint

    Raises ModelError when the checkpoint has no such layers, or they do not fit the tower, each other or the classes of
    config.json.
    """
    inputs = tower.width * (len(rows) + mean) // len(names)
    layers = [_linear(checkpoint, name, inputs) for name in names]
    labels = _labels(checkpoint, {layer.out_features for layer in layers})
    head = Head("logits", tuple(rows), labels, mean)
    return Encoder(family, tower, len(tower.attention), Classifier(layers).eval(), normed=True, head=head)


def _linear(checkpoint: Checkpoint, name: str, inputs: int) -> nn.Linear:
    if not {f"{name}.weight", f"{name}.bias"} <= checkpoint.shards.keys():
        raise ModelError(
            f"--head needs a checkpoint of a ...ForImageClassification, whose classifier it exports; {checkpoint.id} "
            f"has no {name}.weight and {name}.bias; leave --head out"
        )
    weight, bias = (checkpoint.tensors(f"{name}.")[part].float() for part in ("weight", "bias"))
    if weight.dim() != 2 or weight.shape[1] != inputs or bias.shape != weight.shape[:1]:
        raise ModelError(
            f"{checkpoint.id}: {name}.weight must be [classes, {inputs}] and {name}.bias [classes], they are "
            f"{[*weight.shape]} and {[*bias.shape]}; is it the config of this checkpoint?"
        )
    with torch.device("meta"):
        layer = nn.Linear(inputs, len(weight))
    layer.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return layer.requires_grad_(False)


def _labels(checkpoint: Checkpoint, classes: set[int]) -> tuple[str, ...]:
    """The names in config.json, in the order of the logits; without any, transformers means two classes."""
    stored = checkpoint.config.get("id2label")
    named = stored if isinstance(stored, dict) and stored else {"0": "LABEL_0", "1": "LABEL_1"}
    if classes != {len(named)} or set(named) != {str(at) for at in range(len(named))}:
        raise ModelError(
            f"{checkpoint.id}: id2label of config.json must name the classes 0..{min(classes) - 1} of its classifier, "
            f"one each; it names {len(named)}, of {min(named)}..{max(named)}"
        )
    return tuple(str(named[str(at)]) for at in range(len(named)))
