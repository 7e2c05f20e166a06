"""The seeds of the fuzz targets in runtime/cpp/fuzz, made from bundles: python -m tests.cpp.seeds, from the repository.

manifest/      manifest.json, of either schema, with all that may stand in it
safetensors/   the references of bundles, of which each tensor keeps a few numbers
bundle/        a byte that says what is put right, manifest.json, NUL, encoder.onnx with weights in w.data
images/        preprocessing of a manifest, NUL, width and height of two bytes, bytes between rows, dtype
ppm/           images
parity/        what the manifest says of a reference, NUL, the reference, and what a graph gave: the rules' examples
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import convert_model_to_external_data
from safetensors.numpy import load_file, save

from edgeprune.bundle import MANIFEST, File, Graph, Manifest, Plan, TensorSpec, describe_files
from edgeprune.runtime.images.resize import TORCH
from edgeprune.runtime.images.tiles import Tiles
from edgeprune.runtime.parity.decisions import Case
from edgeprune.runtime.parity.stored import QUANTITY, packed
from tests.brightest import write_bundle
from tests.bundle.conftest import INPUTS, OUTPUTS, make
from tests.bundle.test_onnx_data import PLACES
from tests.cpp.pictures import steps

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "runtime" / "cpp" / "fuzz" / "corpus"
OLD = ROOT / "tests" / "golden" / "bundle-0.1"


def everything() -> Manifest:
    """A detector with an engine and a baseline: every field that a manifest may have."""
    outputs = {
        **{name: OUTPUTS[name] for name in ("indices", "scores")},
        "picks": OUTPUTS["indices"],
        "logits": TensorSpec(("batch", 5, 3), "float16"),
        "pred_boxes": TensorSpec(("batch", 5, 4), "float16"),
    }
    plan = Plan("encoder.orin.plan", "tensorrt", "10.3.0", (87,), "Linux aarch64", ("FP16",), 1234)
    names = ("encoder.onnx", "baseline.pool.onnx", plan.plan)
    prior = {"prior": TensorSpec(("batch", 24), "float32")}
    return make(
        inputs={**INPUTS, **prior},
        outputs=outputs,
        baselines={"baseline.pool": Graph("baseline.pool.onnx", INPUTS, {})},
        files={name: File(2, "ab" * 32) for name in names},
        engines={"jetson-orin": plan},
        labels=("cat", "Ä\U0001f600"),
        layout="rows",
        ports={"prior": {"what": "of each patch, 0: it is kept last", "blank": 1.0}},
        float32_nodes=("/a/Softmax",),
        rule={"name": "greedy", "objective": "max-min", "eps": 1e-05},
    )


def fewer_bits() -> Manifest:
    """A graph with quantised products: all that `quantised` has, which is read, kept, and handed to the session."""
    products = [
        {"name": "encoder.layers.0.mlp.fc1", "error": 0.046, "float": True, "why": "measured"},
        {"name": "projector.0", "error": 0.012, "float": False, "why": ""},
    ]
    calibration = {
        "images": 2,
        "source": "drawn scenes and probes",
        "digest": "cd" * 32,
        "method": "percentile 99.99",
        "ranges": {"projector.0": [-1.5, 2.25]},
    }
    said = {
        "scheme": "int8",
        "activations": "u8",
        "smoothed": [],
        "products": products,
        "calibration": calibration,
        "bounds": {"regret": 0.01, "token_median": 0.05, "token_each": 0.15},
        "session": {"cpu": {"disable": ["MatMulAddFusion"]}},
    }
    return make(precision="int8", quantised=said)


FORMS = {
    "crop": steps((9, 6), resize={"shortest_edge": 7}, crop=(9, 6)),
    "squash": steps((9, 6), resize={"height": 9, "width": 6}, resample=1, square=(1, 20, 255)),
    "longest": steps((8, 8), resize={"shortest_edge": 7, "longest_edge": 12}, crop=(8, 8), resample=5),
    "within": steps((8, 9), resize={"max_height": 8, "max_width": 9}, crop=(8, 9), resample=0),
    "tiles": steps((8, 8), resize={"height": 8, "width": 8}, tiles=Tiles(5, 8, ((16, 16), (8, 32)))),
    "squeezed": steps((8, 8), resize={"height": 8, "width": 8}, tiles=Tiles(3, 8, ((8, 16), (16, 8)), squeezed=True)),
    "parts": steps(
        (8, 8), resize={"height": 8, "width": 8}, tiles=Tiles(2, 8, ((8, 16), (16, 8)), squeezed=True, whole=False)
    ),
    "torch": steps((9, 6), resize={"height": 9, "width": 6}, resample=2, resizer=TORCH),
}


def compact(text: str) -> bytes:
    return json.dumps(json.loads(text), separators=(",", ":")).encode()


def short(path: Path) -> bytes:
    """A safetensors file, its tensors cut to their first numbers."""
    few = {name: np.ravel(one)[:3].copy() for name, one in sorted(load_file(path).items())[:8]}
    return save(few, {"format": "np"})


def examples() -> Iterator[tuple[str, bytes]]:
    """Those of test_rules.py and test_groups.py of tests/runtime/parity: worked by hand, a few patches each."""
    cases: list[Case] = []

    class Recorder:
        def pytest_collection_modifyitems(self, items: list[Any]) -> None:
            modules = {item.module for item in items}
            made = next(iter(modules)).case  # the same in all of them

            def recorded(*given: Any, **quantities: Any) -> Case:
                cases.append(made(*given, **quantities))
                return cases[-1]

            for module in modules:
                module.case = recorded

    files = [str(ROOT / f"tests/runtime/parity/test_{name}.py") for name in ("rules", "groups")]
    pytest.main([*files, "-q", "-p", "no:xdist"], plugins=[Recorder()])
    for at, case in enumerate(cases):
        kind = {"objective": "greedy", "form": "match", "anchors": "stages", "dropped": "thin", "sizes": "chunks"}
        name = case.rule.get("name") or next((kind[key] for key in kind if key in case.rule), "topk")
        tensors = {f"x/{one}": value[None] for one, value in case.reference.items()}
        tensors |= {f"got/{one}": value[None] for one, value in case.got.items()}
        tensors |= {f"x/{QUANTITY}{one}": packed(one, value[None]) for one, value in case.quantities.items()}
        for side in ("x", "got"):
            tensors[f"{side}/tokens"] = np.ones((1, case.keep, 1), np.float16 if at % 2 else np.float32)
        said = {"rule": {**case.rule, "name": name}, **({"half": 1} if at % 2 else {})}
        if "picks" in case.got and at % 3 == 0:
            said["keep"] = 1
        content = {one: np.ascontiguousarray(value) for one, value in tensors.items()}
        yield f"{at:02}-{name}", json.dumps(said, separators=(",", ":")).encode() + b"\0" + save(content)


def main() -> None:
    def seed(kind: str, name: str, content: bytes) -> None:
        (CORPUS / kind).mkdir(parents=True, exist_ok=True)
        (CORPUS / kind / name).write_bytes(content)

    with tempfile.TemporaryDirectory() as folder:
        bright = write_bundle(Path(folder, "bright"), picks=True)
        tiled = write_bundle(Path(folder, "tiled"), batch=2, dtype="uint8")
        for name, text in {
            "everything": everything().to_json(),
            "quantised": fewer_bits().to_json(),
            "bright": (bright / MANIFEST).read_text(),
            "tiled": (tiled / MANIFEST).read_text(),
            "old": (OLD / MANIFEST).read_text(),
        }.items():
            seed("manifest", name, compact(text))
        for name, form in FORMS.items():
            for size in ((5, 40), (30, 17)):
                said = b"".join(side.to_bytes(2, "little") for side in size) + bytes((size[0] % 3, size[1] % 3))
                seed("images", f"{name}-{size[0]}x{size[1]}", compact(json.dumps(form.to_json())) + b"\0" + said)
        for name, file in {
            "colour": b"P6\n# a comment\n2 1\n255\nabcdef",
            "grey": b"P5 1 2 255 ab",
            "white": b"P6 1 1 65535\nabcdef",
            "short": b"P6 300000 300000 255\nabc",
        }.items():
            seed("ppm", name, file)
        seed("safetensors", "bright", short(bright / "reference.safetensors"))
        seed("safetensors", "old", short(OLD / "reference.safetensors"))
        kinds = ("float32", "float16", "uint8", "int8", "int32", "int64", "bool")
        seed("safetensors", "kinds", save({kind: np.ones((1, 3), kind) for kind in kinds}))
        seed("safetensors", "none", save({}))

        (bright / "reference.safetensors").unlink()
        (bright / "w.data").write_bytes(b"data")
        beside = onnx.load(bright / "encoder.onnx")
        convert_model_to_external_data(beside, location="w.data", size_threshold=0)
        graphs = {name.replace(" ", "-"): build().SerializeToString() for name, build in PLACES.items()}
        graphs["bright"] = beside.SerializeToString()
        given = json.loads((bright / MANIFEST).read_text())
        for name, graph in graphs.items():
            (bright / "encoder.onnx").write_bytes(graph)
            given["files"] = {one: dataclasses.asdict(file) for one, file in describe_files(bright).items()}
            seed("bundle", name, b"\3" + json.dumps(given, separators=(",", ":")).encode() + b"\0" + graph)

    for name, content in examples():
        seed("parity", name, content)


if __name__ == "__main__":
    main()
