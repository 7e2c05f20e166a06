"""What a device needs beside the graph: how to build it, how to compare it, and a page that says what the bundle is."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open

from edgeprune.bundle import Manifest
from edgeprune.runtime.polygraphy_compare import COMPARE, PROBES, probes_json
from edgeprune.targets import Target

__all__ = ["build_script", "polygraphy", "readme"]

_BUILD = """\
#!/usr/bin/env bash
# Build the TensorRT engine of this bundle, on the device that will run it.
# {description}
# Needs TensorRT {version}: an engine runs only on the GPU and the release that built it.
set -euo pipefail
cd "$(dirname "$0")"

default={trtexec}
trtexec=${{TRTEXEC:-$default}}
command -v "$trtexec" >/dev/null || {{ echo "build.sh: no trtexec at $trtexec; set TRTEXEC to its path" >&2; exit 2; }}

# Written under another name first: an interrupted build leaves no half engine.
"$trtexec" --onnx={graph} --saveEngine={plan}.partial \\
    {build_flags} \\
    --memPoolSize=workspace:{workspace_mib} --timingCacheFile=timing.cache
mv {plan}.partial {plan}
echo "built {plan}; measure it with:"
printf '  %s %s\n' "$trtexec" {bench}
"""

_COMPARE = '''\
r"""Parity with reference.safetensors in Polygraphy: the decisions of a run are judged, not its numbers by position.

{command}

It reads the probes from this folder; probes.json says which of them each run is, and without it nothing is compared.
Needs polygraphy, safetensors and edgeprune.
"""

from pathlib import Path

from edgeprune.runtime import polygraphy_compare

FOLDER = Path(__file__).resolve().parent


def load_data():
    return polygraphy_compare.load_data(FOLDER)


def compare_outputs(first, second):
    return polygraphy_compare.compare_outputs(FOLDER, first, second)
'''

_POLYGRAPHY = """\
polygraphy run {model} \\
    --data-loader-script compare.py --load-outputs probes.json --compare-func-script compare.py\
"""

_README = """\
# {model} with {method}, {budget}

`{graph_file}` is a vision encoder that {does}, chosen inside the graph by
`{method}`; no shape is dynamic{batch}. Made by edgeprune {version} for the target `{target}`: {description}.

| tensor | shape | dtype |
|---|---|---|
{tensors}

Multiply-adds per run: {graph:.2f} G, unpruned {unpruned:.2f} G.
{deviations}
## On the device

Copy this folder there{install}, then:

```
{commands}
```

`verify` compares every backend that is there with `reference.safetensors`, the outputs of the official algorithm in
eager float32; it needs no torch. Polygraphy can do the same, with its own runners:

```
{polygraphy}
```

From Python:

```python
from edgeprune.runtime import load

{python}
```
"""
_ENCODES = """\
encoder = load(".")
tokens, indices, scores = encoder("photo.jpg")\
"""
_DETECTS = """\
detector = load(".")
for scores, labels, boxes in detector("photo.jpg", threshold=0.5):  # boxes: x0, y0, x1, y1 in pixels of the photo
    print([detector.labels[label] for label in labels], boxes)\
"""
BUILD = "edgeprune build ."


def build_script(target: Target, graph: str = "encoder.onnx", float32_nodes: Sequence[str] = ()) -> str | None:
    """build.sh for targets whose engine is built on the device with trtexec; None for the others.

    graph: file name
    float32_nodes: as in the manifest
    """
    engine = target.engine
    if engine.kind != "tensorrt" or engine.build != "on-device":
        return None
    plan = shlex.quote(f"encoder.{target.name}.plan")
    kept = ",".join(f"{node}:fp32" for node in float32_nodes)
    kept_flags = ("--precisionConstraints=obey", f"--layerPrecisions={kept}") if kept else ()
    return _BUILD.format(
        description=target.description,
        version=engine.version,
        trtexec=shlex.quote(target.jetson.trtexec if target.jetson else "trtexec"),
        graph=shlex.quote(graph),
        plan=plan,
        build_flags=shlex.join((*engine.build_flags, *kept_flags)),
        workspace_mib=engine.workspace_mib,
        bench=shlex.quote(f"--loadEngine={plan} {shlex.join(target.bench.flags)}"),
    )


def polygraphy(target: Target, reference: Path, graph: str = "encoder.onnx") -> dict[str, str]:
    """File name -> text of what `polygraphy run` takes the probes and the comparison from.

    reference: the bundle's
    graph: file name
    """
    with safe_open(reference, framework="numpy") as file:
        names = {key.rpartition("/")[0] for key in file.keys()}  # noqa: SIM118 - it is no dict
    command = "\n".join(f"    {line}" for line in _polygraphy(target, graph).splitlines())
    return {COMPARE: _COMPARE.format(command=command), PROBES: probes_json(names)}


def _polygraphy(target: Target, graph: str) -> str:
    """The command for the target's plan, or for the graph where ONNX Runtime runs it."""
    if target.engine.kind == "onnxruntime":
        cuda = " --providers cuda" if target.provider == "CUDAExecutionProvider" else ""
        return _POLYGRAPHY.format(model=f"{graph} --onnxrt{cuda}")
    rtx = "POLYGRAPHY_USE_TENSORRT_RTX=1 " if target.engine.kind == "tensorrt-rtx" else ""
    return rtx + _POLYGRAPHY.format(model=f"encoder.{target.name}.plan --model-type engine --trt")


def _first(target: Target) -> str:
    """What is run first on the device. The plan of build.sh is not in the manifest, so that the runtime leaves it; it
    is for boards whose Python is too old for edgeprune, and for programs without Python."""
    if target.engine.kind == "onnxruntime":
        return "edgeprune inspect ."
    old = target.jetson is not None and tuple(map(int, target.jetson.python.split("."))) < (3, 10)
    return "bash build.sh" if old else BUILD


def readme(manifest: Manifest, target: Target) -> str:
    tensors = {**manifest.inputs, **manifest.outputs}
    on = " --device cuda" if target.provider == "CUDAExecutionProvider" else ""
    commands = [_first(target), f"edgeprune verify .{on}", f"edgeprune bench .{on}"]
    if commands[0] == BUILD:
        commands[-1] = "edgeprune bench . --device tensorrt"
    deviations = "".join(f"\nDeviation from the official code: {one}.\n" for one in manifest.deviations)
    wide = len(manifest.float32_nodes)
    kept = f"\nNodes that the build keeps in float32, for float16 ends at 65504: {wide}.\n" if wide else ""
    layout = f"\nLayout of the tokens: {manifest.layout}.\n" if manifest.layout else ""
    return _README.format(
        model=manifest.model.id,
        method=manifest.method,
        budget=manifest.budget,
        batch=" except the batch" if manifest.dynamic_batch else "",
        version=manifest.versions["edgeprune"],
        target=target.name,
        description=target.description,
        tensors="\n".join(f"| `{n}` | {list(t.shape)} | {t.dtype} |" for n, t in tensors.items()),
        graph=manifest.cost["graph"] / 1e9,
        unpruned=manifest.cost["unpruned_formula"] / 1e9,
        deviations=layout + deviations + kept,
        install=f" and install edgeprune (`{target.jetson.install}`)" if target.jetson else "",
        commands="\n".join(commands),
        polygraphy=_polygraphy(target, manifest.encoder.file),
        graph_file=manifest.encoder.file,
        python=_DETECTS if manifest.detects else _ENCODES,
        does=f"{'detects with' if manifest.detects else 'emits'} {manifest.budget}",
    )
