"""What is changed of the graphs and said in the configs for transformers.js, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from edgeprune import bundle as bundles
from edgeprune.bundle import Bundle, TensorSpec
from edgeprune.errors import BundleError, RequestError
from edgeprune.export.assemble import Request, transformersjs
from edgeprune.export.assemble.library import FILES, library_files, place_library
from edgeprune.export.assemble.request import check as check_request
from edgeprune.runtime.generate.chat import PLAIN
from edgeprune.runtime.generate.folder import Assembled, Decoder, Prompt
from edgeprune.runtime.images.preprocess import Preprocessing
from tests.brightest import MakeBundle

DECODER = """<ir_version: 10, opset_import: ["": 18]> decoder
(float16[batch_size, length, 4] inputs_embeds, float16[batch_size, 2, past_sequence_length, kv_cache_dim] past)
=> (float16[batch_size, length, 4] logits, float16[batch_size, 2, past_sequence_length, kv_cache_dim] present)
{ logits = Add (inputs_embeds, inputs_embeds) present = Identity (past) }"""
"""as the builder writes a decoder's ends in float16"""


def decoder(dtype: str = "float16") -> ir.Model:
    made = ir.from_onnx_text(DECODER.replace("float16", dtype))
    for node in made.graph:
        node.name = node.op_type
    return made


def assembled(family: str = "llava") -> Assembled:
    built = Decoder("LlamaForCausalLM", "float32", "decoder.onnx", 4, 4, 4, 32, "float32")
    return Assembled("transformersjs", family, "a/b", "local", 128, 394, 64, 1, 512, (2,), Prompt(3, 3), built, {}, {})


@pytest.mark.parametrize(("height", "width"), [(336, 336), (96, 96), (224, 448), (448, 224)])
@pytest.mark.parametrize("keep", [1, 64])
def test_the_processor_writes_k_placeholders(height: int, width: int, keep: int) -> None:
    """By LlavaProcessor's formula: floor(H / patch_size) * floor(W / patch_size) + num_additional_image_tokens."""
    given = transformersjs.placeholders((height, width), keep)
    patch, more = given["patch_size"], given["num_additional_image_tokens"]
    assert (height // patch) * (width // patch) + more == keep


def test_a_free_dimension_of_the_cache_would_become_0_and_is_fixed() -> None:
    fixed = transformersjs.fixed_cache(decoder(), 8).graph
    shapes = [list(map(str, value.shape or ())) for value in (fixed.inputs[1], fixed.outputs[1])]
    assert shapes == 2 * [["batch_size", "2", "past_sequence_length", "8"]]


def test_a_decoder_of_float16_takes_and_gives_float32_between_casts(tmp_path: Path) -> None:
    ir.save(transformersjs.float32_ends(decoder()), tmp_path / "d.onnx")
    session = ort.InferenceSession(tmp_path / "d.onnx", providers=["CPUExecutionProvider"])
    types = {value.name: value.type for value in (*session.get_inputs(), *session.get_outputs())}
    assert types == {
        "inputs_embeds": "tensor(float)", "past": "tensor(float16)",
        "logits": "tensor(float)", "present": "tensor(float16)",
    }  # fmt: skip
    embeds = np.arange(8, dtype=np.float32).reshape(1, 2, 4)
    logits, _ = session.run(None, {"inputs_embeds": embeds, "past": np.zeros((1, 2, 0, 8), np.float16)})
    assert np.array_equal(logits, 2 * embeds)


def test_a_decoder_of_float32_is_left_as_it_is() -> None:
    assert [node.op_type for node in transformersjs.float32_ends(decoder("float")).graph] == ["Add", "Identity"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_embeddings_are_rows_of_the_table_as_float32(dtype: torch.dtype, scale: float, tmp_path: Path) -> None:
    table = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    ir.save(transformersjs.embedding(table, scale), tmp_path / "e.onnx")
    session = ort.InferenceSession(tmp_path / "e.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {"input_ids": np.array([[4, 0, 4]])})
    assert given.dtype == np.float32
    assert np.array_equal(given[0], scale * table.float()[[4, 0, 4]].numpy())


def test_large_weights_go_into_files_that_a_browser_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named as transformers.js looks for them, and the graph computes the same."""
    monkeypatch.setattr(transformersjs, "INLINE_NBYTES", 0)
    monkeypatch.setattr(transformersjs, "CHUNK_NBYTES", 100_000)
    table = torch.randn(500, 40, generator=torch.Generator().manual_seed(0))  # 80 kB
    model = transformersjs.embedding(table, 2.0)
    again = ir.Value(name="again", const_value=ir.tensor(table.numpy(), name="again"))
    model.graph.register_initializer(again)
    assert transformersjs.save(model, tmp_path / "e.onnx") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"e.onnx", "e.onnx_data", "e.onnx_data_1"}
    session = ort.InferenceSession(tmp_path / "e.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {"input_ids": np.array([[7]])})
    assert np.array_equal(given[0, 0], 2 * table[7].numpy())


def test_the_steps_to_pixels_are_named_as_transformersjs_names_them() -> None:
    steps = Preprocessing((48, 48), {"shortest_edge": 56}, 3, (48, 48), 1 / 255, (0.5,) * 3, (0.25,) * 3, True)
    assert transformersjs.preprocessor(steps).items() >= {
        "do_resize": True, "size": {"shortest_edge": 56}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": 48, "width": 48},
        "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3,
    }.items()  # fmt: skip


def test_the_plain_template_needs_no_more_than_messages() -> None:
    template = jinja2.Template(transformersjs.template(PLAIN, "<image>"))
    content = [{"type": "image"}, {"type": "text", "text": "what is it?"}]
    said = template.render(messages=[{"role": "user", "content": content}], add_generation_prompt=True)
    assert said == "USER: <image>\nwhat is it? ASSISTANT:"
    assert transformersjs.template("{{ messages }}", "<image>") == "{{ messages }}"


# What is refused


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("qwen2_5_vl", "it counts the tokens of Qwen-VL from the image's grid"),
        ("internvl", "it has no InternVL"),
        ("llava_next", "it has no LLaVA-NeXT"),
        ("llava_onevision", "its processor does not count"),
        ("paligemma", "no such model was tried with it"),
    ],
)
def test_a_family_whose_tokens_it_counts_itself_is_refused(make_bundle: MakeBundle, family: str, why: str) -> None:
    with pytest.raises(RequestError, match=f"K tokens of llava alone, not of {family}: {why}.*another --engine"):
        transformersjs.check(assembled(family), bundles.load(make_bundle()))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokens": TensorSpec((1, 64, 128), "float16")}, "give float32 tokens.*got float16"),
        ({"tokens": TensorSpec((2, 64, 128), "float32")}, "take one image at a time, got 2"),
        ({"pixel_values": TensorSpec((1, 96, 96, 3), "uint8")}, "take float32 pixel_values, got uint8"),
        ({"prior": TensorSpec((1, 144), "float32")}, "take pixel_values alone, got pixel_values, prior"),
    ],
)
def test_an_encoder_that_it_does_not_feed_is_refused(make_bundle: MakeBundle, change: Any, says: str) -> None:
    bundle = bundles.load(make_bundle())
    graph = bundle.manifest.encoder
    outputs = {name: change.pop(name, value) for name, value in {**graph.outputs}.items() if name in ("tokens",)}
    inputs = {"pixel_values": TensorSpec((1, 3, 96, 96), "float32"), **change}
    outputs.setdefault("tokens", TensorSpec((1, 64, 128), "float32"))
    graph = replace(graph, inputs=inputs, outputs={**graph.outputs, **outputs})
    manifest = replace(bundle.manifest, graphs={**bundle.manifest.graphs, "encoder": graph})
    with pytest.raises(BundleError, match=f"must {says}; export it with --target web"):
        transformersjs.check(assembled(), Bundle(bundle.folder, manifest))


def library(folder: Path, version: str = "4.3.1") -> Path:
    for package, names in FILES.items():
        for name in names:
            file = folder / package / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"version": version, "of": package}), encoding="utf-8")
    return folder


def test_the_library_is_copied_to_where_the_page_looks(tmp_path: Path) -> None:
    own = tmp_path / "node_modules/@huggingface/transformers/node_modules/onnxruntime-web"
    library(tmp_path / "node_modules")
    nested = library(tmp_path / "other")
    own.parent.mkdir()
    (nested / "onnxruntime-web").rename(own)
    (own / "package.json").write_text('"the release that it wants"', encoding="utf-8")
    place_library(tmp_path / "model", tmp_path / "node_modules")
    assert (tmp_path / "model/node_modules/onnxruntime-web/package.json").read_text() == '"the release that it wants"'
    page = (Path(transformersjs.__file__).resolve().parents[2] / "runtime/web/worker.mjs").read_text(encoding="utf-8")
    scripts = [name for name in library_files(tmp_path / "node_modules") if name.endswith(("js", "wasm"))]
    assert len(scripts) == 3
    for name in scripts:
        assert name.rsplit(".", 1)[0].removesuffix(".min") in page, "what worker.mjs imports"


@pytest.mark.parametrize(
    ("version", "removed", "says"),
    [
        ("3.8.0", None, "must have @huggingface/transformers 4.x, .* has 3.8.0; run `npm install"),
        ("4.3.1", "dist/ort-wasm-simd-threaded.asyncify.wasm", "must have onnxruntime-web/dist/ort-wasm"),
    ],
)
def test_another_library_is_refused(tmp_path: Path, version: str, removed: str | None, says: str) -> None:
    folder = library(tmp_path, version)
    if removed is not None:
        (folder / "onnxruntime-web" / removed).unlink()
    with pytest.raises(RequestError, match=says):
        library_files(folder)


def test_the_library_goes_with_its_engine_alone(make_bundle: MakeBundle, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--node-modules goes with --engine transformersjs, got genai; leave it out"):
        check_request(
            Request(make_bundle(), output=tmp_path / "model", node_modules=library(tmp_path / "node_modules"))
        )
