"""An evaluation for people: one table, and one plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from edgeprune.errors import MissingPackageError
from edgeprune.quality.evaluate import DENSE, Evaluation

__all__ = ["plot", "table"]

LINES = {"classifier": "o-", "spread": "D-", "oracle": "^--", "oracle, spread": "v--", "random": "s:"}
OTHER = "x-."
NAMES = {
    "classifier": "classifier",
    "spread": "classifier, spread",
    "oracle": "oracle boxes",
    "oracle, spread": "oracle boxes, spread",
    "random": "random",
}


def table(judged: Evaluation) -> Table:
    """mAP by model and rule over the shares kept, and below it what the exported graphs cost."""
    data = f"of {judged.about['data']}" if judged.about.get("data") else ""
    table = Table(
        title=f"mAP on {judged.images:,} images {data}".rstrip(),
        caption="\n".join(_captions(judged)),
        title_justify="left", title_style="bold", caption_justify="left", box=box.SIMPLE, pad_edge=False,
    )  # fmt: skip
    table.add_column("model", no_wrap=True)
    table.add_column("patches kept by", no_wrap=True)
    table.add_column(f"all\n{judged.patches}", justify="right", no_wrap=True)
    keeps = {row.share: row.keep for row in judged.rows if row.variant != DENSE}
    for share in judged.shares:
        table.add_column(f"{share:.0%}\n{keeps[share]}", justify="right", no_wrap=True)
    for model in judged.models:
        for at, variant in enumerate(judged.variants):
            dense = "" if at else f"{judged.row(model, DENSE).mAP:.1f}"
            values = [f"{judged.row(model, variant, share).mAP:.1f}" for share in judged.shares]
            last = variant == judged.variants[-1]
            table.add_row("" if at else model, NAMES.get(variant, variant), dense, *values, end_section=last)
    for name, value in _speeds(judged).items():
        table.add_row("exported graph" if name == "images/s" else "", name, *value)
    return table


def _speeds(judged: Evaluation) -> dict[str, list[str]]:
    """A row for each figure of the graphs; none where they were not measured."""
    if not judged.speed:
        return {}
    by_share = {one.share: one for one in judged.speed}
    measured = [by_share[share] for share in (1.0, *judged.shares)]
    return {
        "images/s": [f"{one.images_per_s:.{0 if one.images_per_s >= 10 else 2}f}" for one in measured],
        "times as fast": [f"{one.ratio:.2f}" for one in measured],
        "multiply-adds, M": [f"{one.multiply_adds / 1e6:,.1f}" for one in measured],
        "peak memory, MiB": [f"{one.peak_mib:,.0f}" for one in measured],
    }


def _captions(judged: Evaluation) -> list[str]:
    """What the classifier loses against the dense detector as it is, at each share, by both rules."""
    dense = judged.row(judged.models[0], DENSE).mAP
    lines = []
    for model in judged.models:
        for rule in ("classifier", "spread"):
            lost = [f"{dense - judged.row(model, rule, share).mAP:+.1f}" for share in judged.shares]
            lines.append(f"{model}: {NAMES[rule]} loses {', '.join(lost)} against {dense:.1f}")
    if judged.speed:
        threads = judged.about.get("threads")
        lines.append(
            f"graphs: ONNX Runtime on the CPU, one image at a time, {threads or 'default'} "
            f"thread{'' if threads == 1 else 's'}; memory with the runtime's own"
        )
    return lines


def plot(judged: Evaluation, path: Path) -> None:
    """mAP against the share of patches kept. Raises OSError; MissingPackageError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ModuleNotFoundError:
        raise MissingPackageError("matplotlib", "bavit") from None
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for at, model in enumerate(judged.models):
        dense = judged.row(model, DENSE).mAP
        for variant in judged.variants:
            values = [judged.row(model, variant, share).mAP for share in judged.shares]
            shares = [100.0, *(100 * share for share in judged.shares)]
            axes.plot(shares, [dense, *values], LINES.get(variant, OTHER), color=f"C{at}", markersize=4, linewidth=1.4)
    dense, lowest = judged.row(judged.models[0], DENSE).mAP, 100 * min(judged.shares)
    axes.axhline(dense, color="0.4", linewidth=0.8, zorder=0)
    above: dict[str, Any] = {"xytext": (0, 3), "textcoords": "offset points", "fontsize": 8, "color": "0.4"}
    axes.annotate(f"dense, {judged.models[0]}", (lowest, dense), **above)
    models = [Line2D([], [], color=f"C{at}", linewidth=3, label=model) for at, model in enumerate(judged.models)]
    grey: dict[str, Any] = {"color": "0.3", "markersize": 4}
    drawn = {variant: LINES.get(variant, OTHER) for variant in judged.variants}
    rules = [Line2D([], [], **grey, marker=how[0], ls=how[1:], label=NAMES.get(v, v)) for v, how in drawn.items()]
    axes.legend(handles=models + rules, loc="lower right", ncols=2)
    axes.set(xlabel="patches kept, %", ylabel="mAP, %", ylim=(0, None))
    axes.set_title(f"mAP over the patches kept, {judged.images:,} images", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120, format="png")
