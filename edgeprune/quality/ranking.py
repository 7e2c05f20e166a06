"""How well a scorer tells foreground from background, in the terms that matter for keeping a fixed number of patches.

recall at K    share of an image's foreground patches among its K highest scores; mean over the images that have any
ideal          min(1, K / foreground patches), which no ranking exceeds
AUC            chance that a foreground patch scores above a background patch, over all patches of all images
balanced accuracy    mean of the accuracies on foreground and on background; always calling the majority has 0.5
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import MissingPackageError, RequestError
from edgeprune.quality.labels import foreground_share

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["KEEP_SHARES", "Ranking", "check_packages", "evaluate", "lines", "plot", "read", "table"]

BINS = 50
KEEP_SHARES = (0.9, 0.75, 0.6, 0.5, 0.4, 0.3)


@dataclass(frozen=True)
class Ranking:
    images: int
    grid: tuple[int, int]
    """rows and columns of the patches that are kept or dropped"""
    auc: float
    accuracy: float
    majority: float
    """accuracy of calling every patch what most patches are"""
    balanced_accuracy: float
    recall: Mapping[str, float]
    """share of the patches kept, as 0.75 -> recall of the foreground"""
    ideal: Mapping[str, float]
    foreground: Mapping[str, float]
    """share of foreground patches of an image: mean, p50, p90, p99"""
    histogram: tuple[int, ...] = field(repr=False)
    """images with 0..2 %, 2..4 %, ... of foreground patches"""
    training: Mapping[str, Any] = field(default_factory=dict)
    """what it was trained on and how, seconds, and the mean loss per patch of each epoch"""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_packages() -> None:
    """Raises MissingPackageError when a report could not be made; to be called before hours of training."""
    for name in ("scipy", "matplotlib"):
        if find_spec(name) is None:
            raise MissingPackageError(name, "bavit")


def evaluate(
    scores: NDArray[np.float32], labels: NDArray[np.bool_], block: int = 1, training: Mapping[str, Any] | None = None
) -> Ranking:
    """scores: [n, rows, columns], foreground above 0;  labels: [n, rows, columns], true for foreground

    block: patches are kept in blocks of so many by so many, of one score, as a coarse scorer has them
    Raises RequestError when one of the two kinds of patches does not occur.
    """
    share = float(labels.mean())
    if not 0 < share < 1:
        raise RequestError(
            f"the validation images must have foreground and background patches, got {share:.0%} foreground on "
            f"{len(labels)} images; give others, or another --threshold"
        )
    called = scores > 0
    right = called == labels
    balanced = (float(right[labels].mean()) + float(right[~labels].mean())) / 2
    recall, ideal = _recalls(scores, labels, block)
    return Ranking(
        images=len(labels),
        grid=(labels.shape[1], labels.shape[2]),
        auc=_auc(scores.ravel(), labels.ravel()),
        accuracy=float(right.mean()),
        majority=max(share, 1 - share),
        balanced_accuracy=balanced,
        recall=recall,
        ideal=ideal,
        foreground=foreground_share(labels),
        histogram=tuple(np.histogram(labels.mean(axis=(1, 2)), bins=BINS, range=(0, 1))[0].tolist()),
        training=dict(training or {}),
    )


def read(path: Path) -> Ranking:
    """Of `report.json`. Raises OSError, or ValueError, TypeError, KeyError when it is none."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    rows, columns = fields["grid"]
    return Ranking(**{**fields, "grid": (rows, columns), "histogram": tuple(fields["histogram"])})


def _recalls(
    scores: NDArray[np.float32], labels: NDArray[np.bool_], block: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Share kept -> recall, and the best possible one. Of equal scores the lower index is kept, as ONNX's TopK does."""
    rows, columns = labels.shape[1] // block, labels.shape[2] // block
    blocks = labels.reshape(len(labels), rows, block, columns, block).sum((2, 4)).reshape(len(labels), -1)
    order = np.argsort(-scores[:, ::block, ::block].reshape(len(labels), -1), axis=1, kind="stable")
    foreground = blocks.sum(1)
    have = foreground > 0
    best = np.cumsum(-np.sort(-blocks, axis=1), axis=1)[have] / foreground[have, None]
    covered = np.cumsum(np.take_along_axis(blocks, order, axis=1), axis=1)[have] / foreground[have, None]
    recall, ideal = {}, {}
    for share in KEEP_SHARES:
        keep = max(1, round(share * rows * columns))
        recall[f"{share:g}"] = float(covered[:, keep - 1].mean())
        ideal[f"{share:g}"] = float(best[:, keep - 1].mean())
    return recall, ideal


def _auc(scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> float:
    """The Mann-Whitney statistic, over its largest value; a tie counts half."""
    from scipy.stats import rankdata

    positive = int(labels.sum())
    above = rankdata(scores)[labels].sum() - positive * (positive + 1) / 2
    return float(above / (positive * (labels.size - positive)))


def plot(report: Ranking, path: Path) -> None:
    """Recall against the share kept, and how much foreground images have. Raises OSError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    kept = [100 * float(share) for share in report.recall]
    left.plot(kept, [100 * value for value in report.ideal.values()], "--", color="0.5", label="ideal ranking")
    left.plot(kept, [100 * value for value in report.recall.values()], "o-", color="C0", label="this scorer")
    left.plot(kept, kept, ":", color="0.5", label="random patches")
    left.set(xlabel="patches kept, %", ylabel="foreground patches kept, %", ylim=(0, 103))
    left.set_title(f"Recall of the foreground, AUC {report.auc:.4f}", fontsize=11)
    left.legend(loc="lower right")
    step, p90 = 100 / BINS, 100 * report.foreground["p90"]
    right.bar([step * (at + 0.5) for at in range(BINS)], report.histogram, width=step, color="C0", alpha=0.7)
    right.axvline(p90, color="C3", label=f"90 % of the images have {p90:.0f} % or less")
    right.set(xlabel="foreground patches of an image, %", ylabel="images")
    right.set_title(f"Foreground of {report.images:,} validation images", fontsize=11)
    right.set_ylim(top=1.2 * max(report.histogram))  # room for the legend
    right.legend(loc="upper right")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    figure.savefig(path, dpi=120, format="png")


def table(report: Ranking) -> Table:
    """For people: how much of the foreground remains at every share kept."""
    from rich import box
    from rich.table import Table

    shown = Table(title="Foreground kept", title_justify="left", title_style="bold", box=box.SIMPLE, pad_edge=False)
    for heading in ("patches\nkept", "by this\nscorer", "at best", "by random\npatches"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for share, value in report.recall.items():
        shown.add_row(f"{float(share):.0%}", f"{value:.1%}", f"{report.ideal[share]:.1%}", f"{float(share):.1%}")
    return shown


def lines(report: Ranking) -> str:
    """For people: the rest, below the table."""
    (rows, columns), foreground = report.grid, report.foreground
    return (
        f"on {report.images:,} validation images of {rows}x{columns} patches: AUC {report.auc:.4f}, "
        f"balanced accuracy {report.balanced_accuracy:.1%}, accuracy {report.accuracy:.1%} "
        f"(calling all what most are: 50.0%, {report.majority:.1%})\n"
        f"foreground of an image: mean {foreground['mean']:.1%}, in 90 % of the images {foreground['p90']:.1%} or less"
    )
