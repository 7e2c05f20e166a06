"""README.md of a bundle: what it is, and what is typed on the device, block after block in one shell.

A block in `bash` or `python` is run as it stands, from the bundle's folder (tests/export/test_page.py does); one in
`sh` builds the C library (page_c.py), and one in `console` belongs to another machine.
"""

from __future__ import annotations

import math
import shlex

from edgeprune.bundle import Manifest
from edgeprune.export import interface, recipe
from edgeprune.export.page_c import page_c
from edgeprune.export.wheel import Wheel
from edgeprune.targets import Target

__all__ = ["readme"]

EXTRAS = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx", "onnxruntime": "cpu"}
"""kind of engine -> the extra of edgeprune that runs it; on a Jetson TensorRT is there"""
PACKAGES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx-cu13"}
MEASURED_S, MEASURED_NBYTES, MEASURED_MACS, MEASURED_TFLOPS = 51, 170e6, 85e6 * 128, 10
"""of a public build of a transformer on a Jetson: BERT-base, 128 tokens, on an Orin Nano with TensorRT 10.3
(https://github.com/NVIDIA/TensorRT/issues/4220)"""
BUILDER_NBYTES = 1 << 30
"""CUDA's context and the builder's own kernels: 215 + 302 + 431 MiB on an Orin (ultralytics/ultralytics#22224)"""
SYSTEM_GIB = 1
"""what a board's system has of the memory"""

_HEAD = """\
# {model} with {method}, {budget}

`{file}` is a vision encoder that {does}, chosen inside the graph by
`{method}`; no shape is dynamic{batch}. Made by edgeprune {version} for the target `{target}`: {description}.

| tensor | shape | dtype |
|---|---|---|
{tensors}

Multiply-adds per run: {graph:.2f} G, unpruned {unpruned:.2f} G.
{inside}{deviations}
## On the device

Copy this folder there and open a shell in it. The commands of this page follow each other in that shell.
"""
_INSTALL = """
### Install

```bash
{commands}
```
"""
_CARRIED = """
`{wheel}` ({size}) is edgeprune without its embedded models: no package index need have it. The packages that it
needs come from one.
"""
_OFFLINE = """
Should `python3 -m venv` not be there: `sudo apt install python3-venv`. For a board that reaches no package index, a
machine that does collects the packages, and the last line above becomes the second one here:

```console
workstation$ pip download --dest wheels --only-binary=:all: --python-version {python} \\
    --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 {packages}
board$ pip install --no-index --find-links wheels {packages}
```
"""
_CLOCKS = """
### Power and clocks

```bash
sudo nvpmodel -q
sudo jetson_clocks
```

The first says in which power mode the board is: `/etc/nvpmodel.conf` lists its modes, `sudo nvpmodel -m <number>`
chooses one, and some ask for a restart. The second holds the clocks at the limit of that mode until the next restart.
The builder times kernels, too: build and measure in the mode that will be used.
"""
_ENGINE = """
### Build the engine

```bash
{build}
```
"""
_BOARDS = """
It needs about {need:.1f} GiB of memory, for the weights, the workspace and the builder itself{tight}.
The minutes are scaled, by weights and by multiply-adds, from one public build
(https://github.com/NVIDIA/TensorRT/issues/4220): no board has timed this one. `timing.cache` makes the next one fast.

| board | memory | bandwidth | float16, dense | build, about |
|---|---:|---:|---:|---:|
{boards}
"""
_BY_SCRIPT = """
`bash build.sh` builds it with trtexec instead, where there is no edgeprune. `edgeprune build . --adopt {plan}`
takes its engine, or one that you built with trtexec, into the manifest; `verify` and `bench` do that by themselves
where what `build.sh` noted beside it fits.
"""
_ANYWHERE = """
It needs no GPU and can be done before the folder is copied: then the engine is here already, and this is left out.
"""
_VERIFY = """
### Verify and measure

```bash
{commands}
```

`verify` holds {what} against `reference.safetensors`, the outputs of the official algorithm in eager float32, and needs
no torch. It says what it ran, and names what lies here and was not run{plain}.
"""
_OLD = """
### Measure

```bash
"${{TRTEXEC:-{trtexec}}}" --loadEngine={plan} \\
    {flags}
```

No Python of edgeprune runs on this board: its Python is {python}, its TensorRT is for that Python alone, and edgeprune
needs 3.10. So its `verify`, `bench` and `compare.py` do not run here. What was verified is the graph, in ONNX Runtime,
when the bundle was made; the engine is held against `reference.safetensors` by the program below.
"""
_PYTHON = """
### From Python

With a photo of yours as `photo.jpg` in this folder:

```python
{python}
```

What is printed first says what it runs on, and why not on something better: a plan that fits this machine comes
before CUDA, and CUDA before the CPU. `load(".", device="cpu")` chooses.
"""
_ENCODES = """\
from edgeprune.runtime import load

encoder = load(".")
print(encoder)
tokens, indices, scores = encoder("photo.jpg")\
"""
_DETECTS = """\
from edgeprune.runtime import load

detector = load(".")
print(detector)
for scores, labels, boxes in detector("photo.jpg", threshold=0.5):  # boxes: x0, y0, x1, y1 in pixels of the photo
    print([detector.labels[label] for label in labels], boxes)\
"""
_CLASSIFIES = """\
from edgeprune.runtime import load

classifier = load(".")
print(classifier)
for label, probability in classifier("photo.jpg").top(5):
    print(label, probability)\
"""
_PYTHON_OF = {"tokens": _ENCODES, "detections": _DETECTS, "logits": _CLASSIFIES}
_DOES = {"tokens": "emits", "detections": "detects with", "logits": "classifies with"}
_POLYGRAPHY = """
### Polygraphy

The same comparison, with Polygraphy's own runners:

```bash
pip install 'polygraphy>=0.49.26'
{polygraphy}
```
"""
_INTERFACE = """
## From another language

An engine and a graph take and give the tensors of the table above, by name. From an image to `pixel_values`:

{steps}

What comes out:

{tensors}
"""


def readme(manifest: Manifest, target: Target, wheel: Wheel | None = None, weights_nbytes: int = 0) -> str:
    """The text of the page.

    wheel: what the bundle carries of edgeprune; None: it comes from the package index
    weights_nbytes: size on disk of the graph and its weights
    """
    old = target.jetson is not None and target.jetson.install is None
    if old:
        steps = [_CLOCKS, _engine(manifest, target, weights_nbytes), _old(target), page_c(target, wheel)]
    else:
        steps = [
            _install(target, wheel),
            _CLOCKS if target.jetson else "",
            _engine(manifest, target, weights_nbytes),
            _verify(target),
            _PYTHON.format(python=_PYTHON_OF[manifest.kind]),
            page_c(target, wheel),
            _POLYGRAPHY.format(polygraphy=recipe.polygraphy_command(target, manifest.encoder.file)),
        ]
    return "".join([_head(manifest, target), *steps, _interface(manifest)])


def _inside(manifest: Manifest) -> str:
    """Where the sequence shortens on the way, and what the outputs of that are."""
    if not manifest.inside:
        return ""
    rows = ", ".join(f"{keep} behind layer {layer}" for layer, keep in manifest.steps)
    reducer = manifest.inside["reducer"]
    return (
        f"\nInside the encoder `{reducer}` shortens the sequence: {manifest.patches} rows become {rows}."
        "\n`trail.<layer>` says where each row went, `scores.<layer>` what they were ranked by; `verify` reads both.\n"
    )


def _head(manifest: Manifest, target: Target) -> str:
    tensors, wide = {**manifest.inputs, **manifest.outputs}, len(manifest.float32_nodes)
    kept = f"\nNodes that the build keeps in float32, for float16 ends at 65504: {wide}.\n" if wide else ""
    return _HEAD.format(
        model=manifest.model.id,
        method=manifest.method,
        budget=manifest.budget,
        file=manifest.encoder.file,
        does=f"{_DOES[manifest.kind]} {manifest.budget}",
        batch=" except the batch" if manifest.dynamic_batch else "",
        version=manifest.versions["edgeprune"],
        target=target.name,
        description=target.description,
        tensors="\n".join(f"| `{n}` | {list(t.shape)} | {t.dtype} |" for n, t in tensors.items()),
        graph=manifest.cost["graph"] / 1e9,
        unpruned=manifest.cost["unpruned_formula"] / 1e9,
        inside=_inside(manifest),
        deviations="".join(f"\nDeviation from the official code: {one}.\n" for one in manifest.deviations) + kept,
    )


def _install(target: Target, wheel: Wheel | None) -> str:
    kind, board = target.engine.kind, target.jetson
    extra = "cuda" if target.provider == "CUDAExecutionProvider" else "cpu" if board else EXTRAS[kind]
    given = f"'{f'./{wheel.name}' if wheel else 'edgeprune'}[{extra}]'"
    if board:
        commands = board.installing(given)
    else:  # the package of an engine is the one that the target names
        more = f" '{PACKAGES[kind]}{target.engine.version}'" if kind in PACKAGES else ""
        commands = ["python3 -m venv ~/edgeprune-env", ". ~/edgeprune-env/bin/activate", f"pip install {given}{more}"]
    text = _INSTALL.format(commands="\n".join(commands))
    if wheel:
        text += _CARRIED.format(wheel=wheel.name, size=f"{len(wheel.content) / 1e6:.1f} MB")
    if board:
        packages = commands[-1].removeprefix("pip install ") + (" tomli" if board.python == "3.10" else "")
        text += _OFFLINE.format(python=board.python, packages=packages)
    return text


def _engine(manifest: Manifest, target: Target, weights_nbytes: int) -> str:
    """How it is built, in which memory and time; nothing where ONNX Runtime runs the graph as it is."""
    engine, board = target.engine, target.jetson
    if engine.kind == "onnxruntime":
        return ""
    old = board is not None and board.install is None
    text = _ENGINE.format(build="bash build.sh" if old else "edgeprune build .")
    if board and board.boards:
        need = (BUILDER_NBYTES + 3 * weights_nbytes) / 2**30 + (engine.workspace_mib or 0) / 1024
        short = [one.name for one in board.boards if one.memory_gib - SYSTEM_GIB < need]
        tight = (
            f"; {' and '.join(short)}: stop the desktop first (`sudo init 3`), and it may still be too little"
            if short
            else ""
        )
        rows = [
            f"| {one.name} | {one.memory_gib} GiB | {one.bandwidth_gb_s:g} GB/s | {one.tflops_fp16:g} TFLOPS "
            f"| {_minutes(one.tflops_fp16, manifest.cost['graph'], weights_nbytes)} |"
            for one in board.boards
        ]
        text += _BOARDS.format(need=need, tight=tight, boards="\n".join(rows))
    if engine.build == "here":
        text += _ANYWHERE
    elif not old:
        text += _BY_SCRIPT.format(plan=recipe.plan_of(target))
    return text


def _minutes(tflops: float, macs: int, weights_nbytes: int) -> str:
    """
    >>> _minutes(10, 191_000_000_000, 610_000_000), _minutes(10, 150_000_000, 3_000_000)
    ('4 to 15 min', '1 min')
    """
    scaled = (weights_nbytes / MEASURED_NBYTES, macs / MEASURED_MACS)
    low, high = (math.ceil(MEASURED_S * one * MEASURED_TFLOPS / tflops / 60) for one in (min(scaled), max(scaled)))
    return f"{low} to {high} min" if low < high else f"{high} min"


def _verify(target: Target) -> str:
    engine = target.engine.kind != "onnxruntime"
    on = " --device tensorrt" if engine else " --device cuda" if target.gpu else ""
    first = [] if engine else ["edgeprune inspect ."]
    commands = [*first, f"edgeprune verify .{on}", f"edgeprune bench .{on}"]
    plain = "; `edgeprune verify .`, without `--device`, also runs the graph on what else is here" if engine else ""
    return _VERIFY.format(what="the engine" if engine else "the graph", commands="\n".join(commands), plain=plain)


def _old(target: Target) -> str:
    assert target.jetson is not None
    flags = shlex.join(target.bench.flags)
    return _OLD.format(
        trtexec=target.jetson.trtexec, plan=recipe.plan_of(target), flags=flags, python=target.jetson.python
    )


def _interface(manifest: Manifest) -> str:
    steps = "\n".join(f"{at}. {line}" for at, line in enumerate(interface.inputs(manifest), 1))
    tensors = "\n".join(f"- {line}" for line in interface.outputs(manifest))
    return _INTERFACE.format(steps=steps, tensors=tensors)
