"""How many tokens are kept, of what was asked for, and whether that is worth it."""

from __future__ import annotations

from torch import nn

from edgeprune.bundle import Manifest
from edgeprune.encoders import Encoder
from edgeprune.errors import RequestError
from edgeprune.pruners import Method
from edgeprune.pruners._scorer import Scorer

__all__ = ["WORTHWHILE", "block_of", "of_a_tile", "tokens", "warnings"]

WORTHWHILE = 1.1
"""times as fast, by multiply-adds, that pruning inside the encoder should promise"""


def tokens(keep: int | float | None, patches: int, block: int) -> int | None:
    """How many of the patches; a share is rounded to the nearest multiple of a block."""
    if not isinstance(keep, float):
        return keep
    if not 0 < keep <= 1:
        raise RequestError(
            f"--keep as a share must be in (0, 1], got {keep:g}; give a number of tokens without a point, as 64"
        )
    return max(block, round(keep * patches / block) * block)


def block_of(scorer: nn.Module | None, encoder: Encoder) -> int:
    """The patches that a scorer keeps or drops together."""
    if not isinstance(scorer, Scorer) or scorer.config.kind != "coarse":
        return 1
    return int(max(1, scorer.config.patch_size // encoder.tower.patch_embedding.kernel_size[0]) ** 2)


def of_a_tile(keep: int | None, tiles: int, encoder: Encoder) -> int | None:
    """The tiles of one image share its budget evenly."""
    if keep is None or not encoder.tiled:
        return keep
    if keep % tiles:
        less = keep - keep % tiles
        near = " or ".join(str(one) for one in (less, less + tiles) if one)
        raise RequestError(f"keep must divide over the {tiles} tiles of an image, got {keep}; {near} would")
    return keep // tiles


def warnings(manifest: Manifest, method: Method) -> tuple[str, ...]:
    """What the method warns of; whether an image is seen in less detail than its model sees it; and of tokens that are
    dropped inside the encoder, whether it pays, and whether enough are kept."""
    lines, cost = [*method.warnings(manifest.model.layer)], manifest.cost
    if manifest.preprocessing.get("tiles", {}).get("count") == 1:
        lines.append(
            "an image is encoded once, whole; the model's image processor cuts it into tiles as well: give --tiles"
        )
    bound = cost["unpruned_formula"] / cost["formula"]
    if method.traits.inside and bound < WORTHWHILE:
        lines.append(
            f"by its multiply-adds this runs at most {bound:.2f} times as fast as without pruning; keep less than "
            f"{manifest.keep} of {manifest.patches}, or use a scorer that costs less (coarse, trunk)"
        )
    share = getattr(method.scorer, "config", None)
    high = 0.0 if share is None else share.foreground.get("p90", 0.0)
    if manifest.keep < high * manifest.patches:
        lines.append(
            f"keep {manifest.keep} is {manifest.keep / manifest.patches:.0%} of the patches, but one in ten of the "
            f"images that the scorer was calibrated on has more than {high:.0%} foreground; keep "
            f"{high * manifest.patches:.0f}, or fine-tune the model with `edgeprune bavit finetune`"
        )
    return tuple(lines)
