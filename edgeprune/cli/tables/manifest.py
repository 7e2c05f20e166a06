"""What a bundle is, and what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from rich.markup import escape
from rich.table import Table

from edgeprune.bundle import Manifest
from edgeprune.bundle.schema import words
from edgeprune.cli.tables import count, facts, ratio, table

__all__ = ["files_table", "layers_table", "manifest_table"]

NOTHING_SAVED = 0.995
"""of the unpruned encoder's multiply-adds"""


def manifest_table(manifest: Manifest) -> Table:
    """What a bundle is, and its cost by the formula and by its graph."""
    model, tensors = manifest.model, {**manifest.inputs, **manifest.outputs}
    formula, graph, unpruned = (manifest.cost.get(name, 0) for name in ("formula", "graph", "unpruned_formula"))
    return facts(
        f"{manifest.method} keeps {manifest.budget}",
        {
            "model": f"{model.id}, {model.family}, {model.layer} layers, {model.features}",
            "revision": "" if model.revision == "local" else model.revision,
            "target": f"{manifest.target}, {manifest.precision}",
            "engines": "\n".join(
                f"{one.plan}: {one.kind} {one.version}, SM {', '.join(map(str, one.sm))}"
                for one in manifest.engines.values()
            ),
            **{name: f"{list(spec.shape)} {spec.dtype}" for name, spec in tensors.items()},
            "inside": _inside(manifest),
            **{name: words(made) for name, made in manifest.learned.items() if name != "schedule"},
            "formula": f"{count(formula)} multiply-adds, {formula / unpruned:.1%} of unpruned" if unpruned else "",
            "graph": f"{count(graph)} multiply-adds, {graph / formula - 1:+.1%} on the formula" if formula else "",
            "saves": _saved(manifest),
            **_quantised(manifest),
            "calibrated": _calibrated(manifest),
            "order of tokens": manifest.layout,
            "deviations": "\n".join(manifest.deviations),
        },
    )


def _inside(manifest: Manifest) -> str:
    """What shortens the sequence on the way, and to how many rows."""
    if not manifest.inside:
        return ""
    rows = ", ".join(f"{keep} behind layer {layer}" for layer, keep in manifest.steps)
    given = manifest.inside.get("options")
    options = "".join(f", {name}={value}" for name, value in given.items()) if isinstance(given, dict) else ""
    counts = manifest.learned.get("schedule")
    taken = ""
    if isinstance(counts, Mapping) and {"images", "data"} <= counts.keys():
        taken = f"; counts taken of {counts['images']} images ({counts['data']})"
    return f"{manifest.inside['reducer']}{options}: {manifest.patches} patches become {rows}{taken}"


def _saved(manifest: Manifest) -> str:
    """In the encoder, and for what reads its tokens: most methods save there alone."""
    cost = manifest.cost
    whole, pruned = ("unpruned_graph", "graph") if "unpruned_graph" in cost else ("unpruned_formula", "formula")
    if manifest.keep >= manifest.patches or not (cost.get(whole) and cost.get(pruned)):
        return ""
    share = cost[pruned] / cost[whole]
    encoder = (
        f"{1 - share:.1%} of the encoder" if share < NOTHING_SAVED else f"nothing in the encoder ({share:.1%} of it)"
    )
    return encoder if manifest.kind != "tokens" else f"{encoder}; behind it, {manifest.budget} are left to read"


def _quantised(manifest: Manifest) -> dict[str, str]:
    """Which products are computed in fewer bits, by which ranges, and which are not, the worst of them first; by an
    exporter that may say it otherwise."""
    if (said := manifest.quantised) is None:
        return {}
    try:
        products, activations = said["products"], said["activations"] or "ranges of each run"
        floats = sorted((one for one in products if one["float"]), key=lambda one: -one["error"])
        count = f"{len(products) - len(floats)} of {len(products)} products, activations {activations}"
        smoothed, calibration = len(said["smoothed"]), said["calibration"]
        return {
            "quantised": f"{said['scheme']}: {count}" + (f"; inputs of {smoothed} smoothed" if smoothed else ""),
            "ranges": calibration
            and f"{calibration['method']} of {calibration['images']} images ({calibration['source']}), "
            f"sha256 {calibration['digest'][:16]}",
            "stay float": "\n".join(
                f"{one['name']}: {one['why']}" + (f", {one['error']:.2%} off alone" if one["error"] else "")
                for one in floats
            ),
        }
    except (KeyError, TypeError, ValueError):
        return {"quantised": "as its manifest says (--json)"}


def _calibrated(manifest: Manifest) -> str:
    """How the budget was found, of an export with --keep auto; by an exporter that may say it otherwise."""
    said = manifest.calibration
    try:
        error, images = said["error"], f"{said['images']} images, {said['questions']} questions"
        if said["goal"] == "ceiling_ms":
            off = "" if error is None else f" ±{error:.2f}"
            return f"{said['measured']:.2f}{off} ms on {said['data']}, at most {said['wanted']:g} were asked for"
        off = "" if error is None else f" ±{100 * error:.1f}"
        return (
            f"{100 * said['measured']:.1f}{off} % of the unpruned {said['what']} ({said['data']}: {images}), at least "
            f"{100 * said['wanted']:g} % were asked for"
        )
    except (KeyError, TypeError, ValueError):
        return ""


def layers_table(manifest: Manifest) -> Table:
    """How the sequence shortens from layer to layer, and what each costs beside the unpruned encoder's; layers that are
    alike stand in one row, as one of them costs."""
    shown = table(
        "Layers: multiply-adds of one image",
        "layer", "tokens >", "each >", "unpruned >", "each /\nunpruned >",
    )  # fmt: skip
    steps = [layer for layer, _ in manifest.steps]
    segment = 0
    for (passed, layer), alike in groupby(
        range(len(manifest.layers)), key=lambda at: (sum(step <= at for step in steps), manifest.layers[at])
    ):
        numbers, (tokens, own, unpruned) = [at + 1 for at in alike], layer
        if passed > segment and numbers[0] > 1:
            shown.add_section()
        segment = passed
        name = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
        shown.add_row(name, str(tokens), count(own), count(unpruned), ratio(unpruned, own))
    own, unpruned = (sum(layer[at] for layer in manifest.layers) for at in (1, 2))
    shown.add_section()
    shown.add_row("all", "", count(own), count(unpruned), ratio(unpruned, own))
    lines = [f"Behind layer {layer} go on: {rows} of {manifest.patches}." for layer, rows in manifest.steps]
    lines.append("Tokens: [CLS] and its like, and rows that are only attended to, among them.")
    shown.caption = "\n".join(lines)
    return shown


def files_table(manifest: Manifest) -> Table:
    shown = table("Files", "name", "bytes >", "sha256")
    for name, file in manifest.files.items():
        shown.add_row(escape(name), f"{file.size:,}", escape(file.sha256[:16]))
    return shown
