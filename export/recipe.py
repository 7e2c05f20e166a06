"""What a device needs beside the graph: how to build it, and how to compare it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open

from edgeprune.runtime.polygraphy_compare import COMPARE, PROBES, probes_json
from edgeprune.targets import Target

__all__ = ["build_script", "plan_of", "polygraphy", "polygraphy_command"]

_BUILD = """\
#!/usr/bin/env bash
# Build the TensorRT engine of this bundle, on the device that will run it.
# {description}
# Needs TensorRT {version}: an engine runs only on the GPU and the release that built it.
set -euo pipefail
cd "$(dirname "$0")"

plan={plan} graph={graph} flags={noted}
default={trtexec}
trtexec=${{TRTEXEC:-$default}}
refuse() {{ echo "build.sh: $1" >&2; exit 2; }}
command -v "$trtexec" >/dev/null || refuse "no trtexec at $trtexec; set TRTEXEC to its path"
if grep -qsF "\\"$plan\\"" manifest.json; then
    refuse "manifest.json lists $plan; build it again with \\`edgeprune build . --force\\`"
fi

# Written under another name first: an interrupted build leaves no half engine.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$trtexec" --onnx="$graph" --saveEngine="$plan.partial" \\
    {build_flags} \\
    --memPoolSize=workspace:{workspace_mib} --timingCacheFile=timing.cache | tee "$log"
mv "$plan.partial" "$plan"

# What it was built of and by, for `edgeprune build . --adopt`.
said() {{ sed -n "s/.*$1: \\([A-Za-z0-9. -]*\\).*/\\1/p" "$log" | head -n 1; }}
files=$(sha256sum "$plan" "$graph"* | sed 's/^\\([0-9a-f]*\\) [ *]\\(.*\\)$/"\\2": "\\1"/' | paste -sd ,)
printf '{{"release": "%s", "gpu": "%s", "capability": "%s", "system": "%s",\\n' "$(said 'TensorRT version')" \\
    "$(said 'Selected Device')" "$(said 'Compute Capability')" "$(uname -s) $(uname -m)" > "$plan.json"
printf ' "flags": %s, "seconds": %s, "files": {{%s}}}}\\n' "$flags" "$SECONDS" "$files" >> "$plan.json"
echo "built $plan; measure it with:"
printf '  %s %s\\n' "$trtexec" {bench}
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


def build_script(
    target: Target, graph: str = "encoder.onnx", float32_nodes: Sequence[str] = (), quantised: bool = False
) -> str | None:
    """build.sh for targets whose engine is built on the device with trtexec; None for the others.

    graph: file name
    float32_nodes: as in the manifest
    quantised: whether products of the graph are; a builder that chooses types by itself has to be allowed int8
    """
    engine = target.engine
    if engine.kind != "tensorrt" or engine.build != "on-device":
        return None
    plan = shlex.quote(plan_of(target))
    kept = ",".join(f"{node}:fp32" for node in float32_nodes)
    chosen = ("--int8",) if quantised and engine.typing == "weak_fp16" else ()
    flags = (*engine.build_flags, *chosen, *(("--precisionConstraints=obey",) if kept else ()))
    return _BUILD.format(
        description=target.description,
        version=engine.version,
        trtexec=shlex.quote(target.jetson.trtexec if target.jetson else "trtexec"),
        graph=shlex.quote(graph),
        plan=plan,
        build_flags=shlex.join((*flags, *((f"--layerPrecisions={kept}",) if kept else ()))),
        noted=shlex.quote(json.dumps(flags)),
        workspace_mib=engine.workspace_mib,
        bench=shlex.quote(f"--loadEngine={plan} {shlex.join(target.bench.flags)}"),
    )


def plan_of(target: Target) -> str:
    """The file name of its engine."""
    return f"encoder.{target.name}.plan"


def polygraphy(target: Target, reference: Path, graph: str = "encoder.onnx") -> dict[str, str]:
    """File name -> text of what `polygraphy run` takes the probes and the comparison from.

    reference: the bundle's
    graph: file name
    """
    with safe_open(reference, framework="numpy") as file:
        names = {key.rpartition("/")[0] for key in file.keys()}  # noqa: SIM118 - it is no dict
    command = "\n".join(f"    {line}" for line in polygraphy_command(target, graph).splitlines())
    return {COMPARE: _COMPARE.format(command=command), PROBES: probes_json(names)}


def polygraphy_command(target: Target, graph: str) -> str:
    """The command for the target's plan, or for the graph where ONNX Runtime runs it."""
    if target.engine.kind == "onnxruntime":
        cuda = " --providers cuda" if target.provider == "CUDAExecutionProvider" else ""
        return _POLYGRAPHY.format(model=f"{graph} --onnxrt{cuda}")
    rtx = "POLYGRAPHY_USE_TENSORRT_RTX=1 " if target.engine.kind == "tensorrt-rtx" else ""
    return rtx + _POLYGRAPHY.format(model=f"{plan_of(target)} --model-type engine --trt")
