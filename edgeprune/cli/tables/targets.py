"""The targets, and one of them."""

from __future__ import annotations

from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

from edgeprune.cli.tables import facts, table
from edgeprune.targets import Board, Target

__all__ = ["checked", "target_table", "targets_table"]

CHECKED = {1: "run there", 2: "engine built", 3: "ONNX only"}
"""tier -> what of a target is checked: on the device, or without it its engine, or no more than the graph"""


def checked(device: Target) -> str:
    return CHECKED[device.tier]


def targets_table(devices: Iterable[Target], wide: bool = False) -> Table:
    """wide: with the engine and the float, for more than 80 columns"""
    shown = table("Targets", "name", "description", "checked", *(("engine", "float") if wide else ()))
    for one in devices:
        more = (f"{one.engine.kind} {one.engine.version}", one.onnx.float) if wide else ()
        shown.add_row(one.name, escape(one.description), checked(one), *more)
    return shown


def target_table(device: Target) -> Table:
    gpu, onnx, engine, jetson = device.gpu, device.onnx, device.engine, device.jetson
    figures = [f"SM {', '.join(map(str, gpu.sm))}", f"{gpu.memory_gib} GiB"] if gpu else ["none"]
    if gpu and gpu.bandwidth_gb_s:
        figures.append(f"{gpu.bandwidth_gb_s:g} GB/s")
    if gpu and gpu.tflops_fp16:
        figures.append(f"{gpu.tflops_fp16:g} TFLOPS in float16")
    topk = [f"K up to {onnx.topk_limit}"] if onnx.topk_limit else []
    topk += ["floats only: indices are sorted as float32"] if onnx.index_float else []
    built = [f"{engine.kind} {engine.version}", *([f"built {engine.build}"] if engine.build else [])]
    built += [f"{engine.typing} typing", f"workspace {engine.workspace_mib} MiB"] if engine.typing else []
    return facts(
        device.name,
        {
            "description": device.description,
            "checked": checked(device),
            "GPU": ", ".join(figures),
            "ONNX": f"opset {onnx.opset}, IR {onnx.ir_version}, {onnx.float}",
            "MatMul": "" if onnx.float32_matmul else "float16 only",
            "TopK": ", ".join(topk),
            "greedy methods": {"looped": "one Scan", "unrolled": "unrolled"}[onnx.greedy],
            "forbidden": ", ".join(onnx.forbidden_ops),
            "engine": ", ".join(built),
            "products of": ", ".join((onnx.float, *engine.quantised)),
            "build flags": " ".join(engine.build_flags),
            "bench flags": " ".join(device.bench.flags),
            "Jetson": f"JetPack {jetson.jetpack}, L4T {jetson.l4t}, Python {jetson.python}" if jetson else "",
            "boards": "\n".join(_board(one) for one in jetson.boards) if jetson else "",
            "install": " && ".join(jetson.installing()) if jetson else "",
            "sources": "\n".join(device.source),
        },
    )


def _board(one: Board) -> str:
    return f"{one.name}: {one.memory_gib} GiB, {one.bandwidth_gb_s:g} GB/s, {one.tflops_fp16:g} TFLOPS in float16"
