"""What the pruned encoder costs, beside its baselines."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from edgeprune.cli.tables import count, table
from edgeprune.runtime.ledger.bench import Ledger, Row
from edgeprune.runtime.ledger.jetson import Board
from edgeprune.runtime.ledger.plan_bench import PlanTimes
from edgeprune.runtime.ledger.spread import RESTLESS

__all__ = ["ledger_line", "ledger_table"]


def ledger_table(measured: Ledger, wide: bool = False) -> Table:
    """The rows of a bench, and in the caption where the pruned encoder's time goes, and which ratio it does not tell.

    wide: with every figure of a row, for more than 80 columns
    """
    alone = len(measured.rows) == 1  # no ratio: of itself, it says nothing
    cut = "" if measured.keep is None else f", cut to {measured.keep} tokens"
    how = "" if measured.plan else f", threads {measured.threads or 'default'}"
    shown = table(
        f"Benchmark: {measured.device}, {measured.rounds} rounds{how}{cut}",
        "graph", "median\nms >", "p95\nms >", *(() if alone else ("pruned\n/ this >", "95 %\ninterval >")),
        "multiply-\nadds >",
        *(("p99\nms >", "MatMul\nutilisation >") if wide else ()),
    )  # fmt: skip
    for row in measured.rows:
        shown.add_row(
            escape(row.name),
            f"{row.median_ms:.2f}",
            f"{row.p95_ms:.2f}",
            *(() if alone else (_ratio(row), _interval(row))),
            count(row.multiply_adds),
            *((f"{row.p99_ms:.2f}", _share(row.peak_fraction)) if wide else ()),
        )
    parts = ", ".join(f"{name} {share:.1%}" for name, share in measured.parts.items())
    peak = "" if measured.peak_gmacs is None else f"; one large MatMul reaches {measured.peak_gmacs:.0f} G/s"
    lines = [f"Time of the pruned graph: {parts}."] if parts else []
    lines.append(f"Multiply-adds by the formula: {count(measured.formula)}{peak}.")
    lines += [f"No ratio to {escape(row.name)}: {escape(row.doubt)}." for row in measured.rows if row.doubt]
    lines += [] if measured.plan is None else _plan_lines(measured.plan)
    lines += [] if measured.board is None else [_board_line(measured.board)]
    shown.caption = "\n".join([*lines, escape(measured.versions["machine"])])
    return shown


def ledger_line(measured: Ledger) -> str:
    """What the bench comes to, in one line."""
    pruned, *others = measured.rows
    on = f"{pruned.name} takes {pruned.median_ms:.2f} ms on {measured.device}"
    if not others:
        spread = pruned.p95_ms / pruned.median_ms
        restless = f", 95 % of the runs within {spread:.2f} times that" if spread > RESTLESS else ""
        return f"{on}{restless}; there is no baseline to compare with"
    beside = ", ".join(f"{_ratio(row)} of {row.name}" for row in others if not row.doubt)
    unknown = [row.name for row in others if row.doubt]
    remedy = "close what else runs, or give more --rounds"
    doubt = f"too unsteady for a ratio to {', '.join(unknown)}: {remedy}" if unknown else ""
    return f"{on}: {'; '.join(filter(None, (beside, doubt)))}"


def _ratio(row: Row) -> str:
    return "unknown" if row.ratio is None else f"{row.ratio:.3f}"


def _interval(row: Row) -> str:
    return "" if row.interval is None else "{:.3f}-{:.3f}".format(*row.interval)


def _share(part: float | None) -> str:
    return "" if part is None else f"{part:.0%}"


def _plan_lines(plan: PlanTimes) -> list[str]:
    graph = f", CUDA graph {plan.cuda_graph}" if plan.cuda_graph else ""
    compute, enqueue = (
        f"{one.median_ms:.3f} ({one.p95_ms:.3f}, {one.p99_ms:.3f})" for one in (plan.compute, plan.enqueue)
    )
    on = f" on {plan.gpu}" if plan.gpu else ""
    return [
        escape(f"{plan.plan}, {plan.kind} {plan.version}{on}, by {' '.join((plan.by, *plan.flags))}{graph}."),
        f"Median (p95, p99) in ms: GPU compute {compute}, enqueue {enqueue}.",
    ]


def _board_line(board: Board) -> str:
    """What state a Jetson was in."""
    limit = f" of {board.gpu_limit_mhz}" if board.gpu_limit_mhz else ""
    facts = [
        f"{board.model}, L4T {board.l4t}, power mode {board.power_mode}",
        "GPU clock not seen" if board.gpu_mhz is None else f"GPU at {board.gpu_mhz}{limit} MHz",
        *([] if board.locked is None else ["clocks locked" if board.locked else "clocks not locked"]),
        *([] if board.celsius is None else [f"{board.celsius:.0f} C at most"]),
    ]
    return escape(f"{', '.join(facts)}; no throttling seen.")
