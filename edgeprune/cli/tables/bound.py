"""What pruning gains at most in front of a language model."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from edgeprune.cli.tables import count, ratio, table
from edgeprune.estimate.bound import Bound

__all__ = ["bound_table"]


def bound_table(estimate: Bound) -> Table:
    """What pruning gains at most in front of a language model, all of it an estimate."""
    shown = table(
        f"Estimate: {escape(estimate.language_model)} behind the encoder, on {escape(estimate.target)}",
        "", "unpruned >", "pruned >", "pruned /\nunpruned >",
    )  # fmt: skip
    sides = (estimate.unpruned, estimate.pruned)
    shown.add_row("image tokens", *(str(side.image_tokens) for side in sides), ratio(*(s.image_tokens for s in sides)))
    for name in ("encoder", "prefill", "both"):
        counts = [side.encoder + side.prefill if name == "both" else getattr(side, name) for side in sides]
        shown.add_row(f"{name}, multiply-adds", *map(count, counts), ratio(*counts))
    cache = [side.kv_nbytes for side in sides]
    shown.add_row("KV cache, MiB", *(f"{nbytes / (1 << 20):.2f}" for nbytes in cache), ratio(*cache))
    if not estimate.missing:
        for name in ("encoder", "prefill", "first_token", "decode"):
            times = [getattr(side, f"{name}_ms") for side in sides]
            what = {"first_token": "until the first token", "decode": "each next token"}.get(name, name)
            shown.add_row(f"{what}, ms", *(f"{time:.2f}" for time in times), ratio(*times))
    what = "multiply-adds" if estimate.missing else "time"
    before, after = (f"{side.encoder_share:.0%}" for side in sides)
    lines = [
        f"At best, the first token takes {estimate.ratio:.3f} of the {what};",
        f"with no image token at all, {estimate.floor_ratio:.3f}.",
        f"The encoder is {before} of it unpruned, {after} pruned.",
        *_shortened(estimate),
        f"The prompt has {estimate.text_tokens} text tokens.",
        f"The model has {count(estimate.parameters)} parameters, {estimate.weights_gib:.1f} GiB in float16.",
    ]
    if not estimate.fits:
        lines.append(f"It does not fit into the {estimate.memory_gib} GiB of {escape(estimate.target)}.")
    if estimate.missing:
        lines.append(f"No times: {escape(estimate.target)} lacks {escape(', '.join(estimate.missing))}.")
    else:
        lines.append("Times are at the target's peaks: on the device, longer.")
    shown.caption = "\n".join(lines)
    return shown


def _shortened(estimate: Bound) -> list[str]:
    """What shortening the encoder has to do with it, of a bundle that does."""
    if not estimate.inside:
        return []
    gives = (
        f"{estimate.encoder_saves:.0%} of what is saved is saved there, the rest in the prefill."
        if estimate.ratio < 1 and 0 <= estimate.encoder_saves <= 1
        else "nothing is saved there."
    )
    return [f"{escape(estimate.inside)} shortens it to {estimate.encoder_ratio:.3f}: {gives}"]
