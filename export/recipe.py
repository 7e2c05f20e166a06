"""What a device needs beside the graph: the build recipe of its TensorRT, and a page that says what the bundle is."""

from __future__ import annotations

import shlex

from edgeprune.bundle import Manifest
from edgeprune.targets import Target

__all__ = ["build_script", "readme"]

_BUILD = """\
#!/usr/bin/env bash
# Build the TensorRT engine of this bundle, on the device that will run it.
# {description}
# Needs TensorRT {version}: an engine runs only on the GPU and the release that built it.
set -euo pipefail
cd "$(dirname "$0")"

trtexec=${{TRTEXEC:-{trtexec}}}
command -v "$trtexec" >/dev/null || {{ echo "build.sh: no trtexec at $trtexec; set TRTEXEC to its path" >&2; exit 2; }}

# Written under another name first: an interrupted build leaves no half engine.
"$trtexec" --onnx=encoder.onnx --saveEngine={plan}.partial \\
    {build_flags} \\
    --memPoolSize=workspace:{workspace_mib} --timingCacheFile=timing.cache
mv {plan}.partial {plan}
echo "built {plan}; measure it with:"
echo "  $trtexec --loadEngine={plan} {bench_flags}"
"""

_README = """\
# {model} with {method}, {budget}

`encoder.onnx` is a vision encoder that emits {budget}, chosen inside the graph by
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
eager float32; it needs no torch. From Python:

```python
from edgeprune.runtime import load

encoder = load(".")
tokens, indices, scores = encoder("photo.jpg")
```
"""


def build_script(target: Target) -> str | None:
    """build.sh for targets whose engine is built on the device with trtexec; None for the others."""
    engine = target.engine
    if engine.kind != "tensorrt" or engine.build != "on-device":
        return None
    return _BUILD.format(
        description=target.description,
        version=engine.version,
        trtexec=target.jetson.trtexec if target.jetson else "trtexec",
        plan=f"encoder.{target.name}.plan",
        build_flags=shlex.join(engine.build_flags),
        workspace_mib=engine.workspace_mib,
        bench_flags=shlex.join(target.bench.flags),
    )


def readme(manifest: Manifest, target: Target) -> str:
    tensors = {**manifest.inputs, **manifest.outputs}
    on = " --device cuda" if target.provider == "CUDAExecutionProvider" else ""
    builds = "edgeprune build ." if target.engine.kind == "tensorrt-rtx" else "edgeprune inspect ."
    first = "bash build.sh" if build_script(target) else builds
    commands = [first, f"edgeprune verify .{on}", f"edgeprune bench .{on}"]
    deviations = "".join(f"\nDeviation from the official code: {one}.\n" for one in manifest.deviations)
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
        deviations=layout + deviations,
        install=f" and install edgeprune (`{target.jetson.install}`)" if target.jetson else "",
        commands="\n".join(commands),
    )
