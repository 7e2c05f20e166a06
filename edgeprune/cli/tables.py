"""What the command line prints for people. Needs rich."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from edgeprune.bundle import Manifest
from edgeprune.catalog import Entry, Family, refusal
from edgeprune.estimate.bound import Bound
from edgeprune.runtime.ledger.bench import Ledger
from edgeprune.runtime.ledger.jetson import Board
from edgeprune.runtime.ledger.plan_bench import PlanTimes
from edgeprune.runtime.parity.verdict import Verdict
from edgeprune.runtime.parity.verify import BackendReport
from edgeprune.targets import Target

__all__ = [
    "audit",
    "bound",
    "files",
    "fits",
    "ledger",
    "manifest",
    "matrix",
    "methods",
    "parity",
    "parity_line",
    "target",
    "targets",
]


def manifest(found: Manifest) -> Table:
    """What a bundle is, and its cost by the formula and by its graph."""
    model, tensors = found.model, {**found.inputs, **found.outputs}
    formula, graph, unpruned = (found.cost.get(name, 0) for name in ("formula", "graph", "unpruned_formula"))
    return _facts(
        f"{found.method} keeps {found.budget}",
        {
            "model": f"{model.id}, {model.family}, {model.layer} layers, {model.features}",
            "revision": "" if model.revision == "local" else model.revision,
            "target": f"{found.target}, {found.precision}",
            "engines": "\n".join(
                f"{one.plan}: {one.kind} {one.version}, SM {', '.join(map(str, one.sm))}"
                for one in found.engines.values()
            ),
            **{name: f"{list(spec.shape)} {spec.dtype}" for name, spec in tensors.items()},
            "formula": f"{_count(formula)} multiply-adds, {formula / unpruned:.1%} of unpruned" if unpruned else "",
            "graph": f"{_count(graph)} multiply-adds, {graph / formula - 1:+.1%} on the formula" if formula else "",
            "layout": found.layout,
            "deviations": "\n".join(found.deviations),
        },
    )


def files(found: Manifest) -> Table:
    table = _table("Files", "name", "bytes >", "sha256")
    for name, file in found.files.items():
        table.add_row(escape(name), f"{file.size:,}", escape(file.sha256[:16]))
    return table


def parity(reports: Iterable[BackendReport]) -> Table:
    """A row for each backend as a whole, and one for each of its probes below it.

    decided: decisions whose margin exceeds the tolerance, so that a mistake there would be seen
    within: something else was better, by less than rounding explains;  regret: the largest, over its tolerance
    """
    headings = (
        "decisions",
        "decided",
        "within\nrounding",
        "wrong",
        "regret /\ntolerance",
        "score\nerror",
        "token\nerror",
    )
    table = _table("Parity with the reference", "backend\nand probe", *(f"{one} >" for one in headings), "")
    table.padding = (0, 1, 0, 0)
    for backend in reports:
        name = f"{backend.device} {backend.dtype}"
        if len(name) > 15:  # else the table is wider than 80 columns
            name = name.replace(" ", "\n")
        if backend.not_run:
            table.add_row(name, "", "", "", "not run", style="dim", end_section=True)
            continue
        table.add_row(name, *_measured(backend.worst), style="bold")
        for probe, report in backend.probes.items():
            table.add_row(f"  {escape(probe)}", *_measured(report))
        table.add_section()
    return table


def _measured(verdict: Verdict) -> list[str]:
    return [
        str(verdict.decisions),
        str(verdict.decided),
        str(verdict.within),
        f"[red]{verdict.wrong}[/]" if verdict.wrong else "0",
        f"{verdict.regret:.2g}",
        f"{verdict.error_relative:.1e}",
        f"{verdict.token_error:.1e}",
        "[green]pass[/]" if verdict.passed else "[red]FAIL[/]",
    ]


def parity_line(reports: Sequence[BackendReport]) -> str:
    """One line on how every backend compares, and one for each reason why not."""
    lines = []
    for report in reports:
        if report.not_run:
            lines.append(f"[yellow]not run[/] on {report.device}: {escape(report.not_run)}")
            continue
        worst = report.worst
        verdict = "[green]parity[/]" if worst.passed else "[red]NO PARITY[/]"
        proven = "" if report.proven else "[yellow]not proven[/]: "
        share = f"{report.decided:.0%} of the decisions decided" if worst.decisions else "nothing to decide"
        rounding = f", {worst.within} within rounding" if worst.within else ""
        tokens = f"token error {worst.token_error:.1e}" if worst.tokens else "no token to compare"
        lines.append(
            f"{verdict} on {report.device}: {proven}{share}{rounding}, {worst.wrong} wrong, "
            f"score error {worst.error_relative:.1e}, {tokens}"
        )
        lines += [f"  {escape(reason)}" for reason in worst.reasons]
    return "\n".join(lines)


def audit(rows: Iterable[tuple[str, int, int, int]]) -> Table:
    """rows: (graph, kernels, fused attention layers, attention layers)"""
    table = _table("Fusion audit", "graph", "kernels >", "fused attention >")
    for name, kernels, fused, layers in rows:
        table.add_row(escape(name), str(kernels), f"{fused} of {layers} layers")
    return table


def ledger(found: Ledger) -> Table:
    """The rows of a bench, and in the caption where the pruned encoder's time goes."""
    how = "" if found.plan else f" in turns, threads {found.threads or 'default'}"
    table = _table(
        f"Ledger: {found.device}, {found.rounds} rounds{how}",
        "graph", "median\nms >", "p95\nms >", "p99\nms >", "pruned\n/ this >", "multiply-\nadds >", "of matmul\npeak >",
    )  # fmt: skip
    for row in found.rows:
        table.add_row(
            escape(row.name),
            f"{row.median_ms:.2f}",
            f"{row.p95_ms:.2f}",
            f"{row.p99_ms:.2f}",
            f"{row.ratio:.3f}",
            _count(row.multiply_adds),
            "" if row.peak_fraction is None else f"{row.peak_fraction:.0%}",
        )
    parts = ", ".join(f"{name} {share:.1%}" for name, share in found.parts.items())
    peak = "" if found.peak_gmacs is None else f"; matmul reaches {found.peak_gmacs:.0f} G/s"
    lines = [f"Time of the pruned graph: {parts}."] if parts else []
    lines.append(f"Multiply-adds by the formula: {_count(found.formula)}{peak}.")
    lines += [] if found.plan is None else _plan_lines(found.plan)
    lines += [] if found.board is None else [_board_line(found.board)]
    table.caption = "\n".join([*lines, escape(found.versions["machine"])])
    return table


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


def bound(found: Bound) -> Table:
    """What pruning gains at most in front of a language model, all of it an estimate."""
    table = _table(
        f"Estimate: {escape(found.language_model)} behind the encoder, on {escape(found.target)}",
        "", "unpruned >", "pruned >", "pruned /\nunpruned >",
    )  # fmt: skip
    sides = (found.unpruned, found.pruned)
    table.add_row("image tokens", *(str(side.image_tokens) for side in sides), _ratio(*(s.image_tokens for s in sides)))
    for name in ("encoder", "prefill"):
        counts = [getattr(side, name) for side in sides]
        table.add_row(f"{name}, multiply-adds", *map(_count, counts), _ratio(*counts))
    cache = [side.kv_nbytes for side in sides]
    table.add_row("KV cache, MiB", *(f"{nbytes / (1 << 20):.2f}" for nbytes in cache), _ratio(*cache))
    if not found.missing:
        for name in ("encoder", "prefill", "first_token", "decode"):
            times = [getattr(side, f"{name}_ms") for side in sides]
            what = {"first_token": "until the first token", "decode": "each next token"}.get(name, name)
            table.add_row(f"{what}, ms", *(f"{time:.2f}" for time in times), _ratio(*times))
    what = "multiply-adds" if found.missing else "time"
    before, after = (f"{side.encoder_share:.0%}" for side in sides)
    lines = [
        f"At best, the first token takes {found.ratio:.3f} of the {what};",
        f"with no image token at all, {found.floor_ratio:.3f}.",
        f"The encoder is {before} of it unpruned, {after} pruned.",
        f"The prompt has {found.text_tokens} text tokens.",
        f"The model has {_count(found.parameters)} parameters, {found.weights_gib:.1f} GiB in float16.",
    ]
    if not found.fits:
        lines.append(f"It does not fit into the {found.memory_gib} GiB of {escape(found.target)}.")
    if found.missing:
        lines.append(f"No times: {escape(found.target)} lacks {escape(', '.join(found.missing))}.")
    else:
        lines.append("Times are at the target's peaks: on the device, longer.")
    table.caption = "\n".join(lines)
    return table


def _ratio(before: float, after: float) -> str:
    return f"{after / before:.3f}" if before else ""


def methods(entries: Iterable[Entry]) -> Table:
    headings = ("name", "does", "reads", "[CLS]", "training", "multiply-adds >", "paper")
    table = _table("Methods", *(escape(heading) for heading in headings))
    for entry in entries:
        table.add_row(
            entry.name,
            escape(entry.does),
            escape(entry.reads),
            "needed" if "[CLS]" in entry.needs else "",
            "none" if entry.training_free else "needed",
            entry.multiply_adds,
            escape(entry.paper.replace("https://arxiv.org/abs/", "arXiv:")),
        )
    table.caption = "Multiply-adds of the selection itself, for one image of CLIP ViT-L/14 at 64 of 576 tokens."
    return table


def matrix(entries: Sequence[Entry], encoders: Sequence[Family]) -> Table:
    """A row for the encoders on which the same methods work."""
    table = _table("Methods by encoder", "encoders", "works", "refused")
    table.columns[0].no_wrap = False
    for row in fits(entries, encoders):
        table.add_row(*map(escape, row), end_section=True)
    return table


def fits(entries: Sequence[Entry], encoders: Iterable[Family]) -> list[tuple[str, str, str]]:
    """(encoders, the methods that work on them, those that are refused and why); equal answers together."""
    rows: dict[tuple[str, str], list[str]] = {}
    for family in encoders:
        reasons: dict[str, list[str]] = {}
        for entry in entries:
            reasons.setdefault(refusal(entry, family), []).append(entry.name)
        works = ", ".join(reasons.pop("", []))
        refused = "; ".join(f"{reason}: {', '.join(names)}" for reason, names in reasons.items())
        name = f"{family.name} with {family.tower}" if family.tower else family.name
        rows.setdefault((works, refused), []).append(name)
    return [(", ".join(names), *answer) for answer, names in rows.items()]


def targets(found: Iterable[Target]) -> Table:
    table = _table("Targets", "name", "description", "engine", "float", "tier >")
    for one in found:
        table.add_row(
            one.name, escape(one.description), f"{one.engine.kind} {one.engine.version}", one.onnx.float, str(one.tier)
        )
    return table


def target(found: Target) -> Table:
    gpu, onnx, engine, jetson = found.gpu, found.onnx, found.engine, found.jetson
    figures = [f"SM {', '.join(map(str, gpu.sm))}", f"{gpu.memory_gib} GiB"] if gpu else ["none"]
    if gpu and gpu.bandwidth_gb_s:
        figures.append(f"{gpu.bandwidth_gb_s:g} GB/s")
    if gpu and gpu.tflops_fp16:
        figures.append(f"{gpu.tflops_fp16:g} TFLOPS in float16")
    topk = [f"K up to {onnx.topk_limit}"] if onnx.topk_limit else []
    topk += ["floats only: indices are sorted as float32"] if onnx.index_float else []
    built = [f"{engine.kind} {engine.version}", f"built {engine.build or 'never'}"]
    built += [f"{engine.typing} typing", f"workspace {engine.workspace_mib} MiB"] if engine.typing else []
    return _facts(
        found.name,
        {
            "description": found.description,
            "tier": str(found.tier),
            "GPU": ", ".join(figures),
            "ONNX": f"opset {onnx.opset}, IR {onnx.ir_version}, {onnx.float}",
            "MatMul": "" if onnx.float32_matmul else "float16 only",
            "TopK": ", ".join(topk),
            "greedy methods": onnx.greedy,
            "forbidden": ", ".join(onnx.forbidden_ops),
            "engine": ", ".join(built),
            "build flags": " ".join(engine.build_flags),
            "bench flags": " ".join(found.bench.flags),
            "Jetson": f"JetPack {jetson.jetpack}, L4T {jetson.l4t}, Python {jetson.python}" if jetson else "",
            "install": jetson.install if jetson else "",
            "sources": "\n".join(found.source),
        },
    )


def _table(title: str, *headings: str) -> Table:
    """Headings that end in ` >` stand right; the first column and those are never wrapped."""
    table = Table(
        title=title, title_justify="left", title_style="bold", caption_justify="left", box=box.SIMPLE, pad_edge=False
    )
    for at, heading in enumerate(headings):
        name = heading.removesuffix(" >")
        right = name != heading
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=right or at == 0)
    return table


def _facts(title: str, facts: dict[str, str]) -> Table:
    """A row for each fact that is not empty."""
    table = Table(
        title=escape(title), title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            table.add_row(escape(name), escape(value))
    return table


def _count(multiply_adds: int) -> str:
    """Four digits and a unit.

    >>> _count(155_325_696), _count(190_100_000_000)
    ('155.3 M', '190.1 G')
    """
    unit, size = ("G", 1e9) if multiply_adds >= 1e9 else ("M", 1e6)
    return f"{multiply_adds / size:.4g} {unit}"
