"""What an answer costs with the tokens that are kept, beside one with all of them."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from edgeprune.cli.tables import count, table
from edgeprune.estimate.bound import Bound
from edgeprune.runtime.generate.bench import PARTS, WholeLedger

__all__ = ["whole_line", "whole_table"]


def whole_table(ledger: WholeLedger, promised: Bound) -> Table:
    """A row for each part. The last column is the same ratio in multiply-adds, by the formulas of --language-model."""
    pruned, unpruned = ledger.pruned, ledger.unpruned
    shown = table(
        f"An answer: {ledger.engine} {ledger.version}, decoder {ledger.precision}, {ledger.rounds} rounds, threads "
        f"{ledger.threads or 'default'}",
        "part", f"{unpruned.image_tokens} tokens\nms >", f"{pruned.image_tokens} tokens\nms >",
        "share of first\ntoken >", "pruned /\nunpruned >", "in multiply-\nadds >",
    )  # fmt: skip
    by_formula = {
        "encoder": promised.pruned.encoder / promised.unpruned.encoder,
        "prefill": promised.pruned.prefill / promised.unpruned.prefill,
        "first token": promised.pruned.cost / promised.unpruned.cost,
    }
    for part in PARTS:
        ratio = ledger.ratios[part]
        shown.add_row(
            part,
            f"{unpruned.ms[part]:.2f}",
            f"{pruned.ms[part]:.2f}",
            f"{pruned.share(part):.0%}" if part in PARTS[:3] else "",
            "unknown" if ratio is None else f"{ratio:.3f}",
            f"{by_formula[part]:.3f}" if part in by_formula else "",
        )
    lines = [
        f"Prompts of {unpruned.prompt_tokens} and {pruned.prompt_tokens} tokens; multiply-adds up to the first token "
        f"{count(int(promised.unpruned.encoder + promised.unpruned.prefill))} and "
        f"{count(int(promised.pruned.encoder + promised.pruned.prefill))}.",
        *(f"No ratio of {part}: {escape(doubt)}." for part, doubt in ledger.doubts.items()),
    ]
    shown.caption = "\n".join(lines)
    return shown


def whole_line(ledger: WholeLedger) -> str:
    """What it comes to, in one line."""
    pruned, unpruned = ledger.pruned, ledger.unpruned
    ratio = ledger.ratios["first token"]
    told = "too unsteady for a ratio" if ratio is None else f"{ratio:.3f} of all {unpruned.image_tokens} tokens"
    return (
        f"first token after {pruned.ms['first token']:.1f} ms ({told}), then {pruned.tokens_per_s:.1f} tokens/s "
        f"({unpruned.tokens_per_s:.1f} with all)"
    )
