"""The whole model: what the tokens that are kept do to the time of an answer. `make bench`; about four minutes.

A seeded Llama of 12 layers, 1024 wide, 32000 words, in onnxruntime-genai: 64 of 576 image tokens and a prompt of 40 ids
beside them. In front of it CLIP ViT-L/14-336, seeded, in ONNX Runtime. Both sides take turns in one process. Seconds
are those of the CPU, of one thread: what an idle machine takes, whatever else runs beside it.

The bundle that is assembled is of a small tower, whose export takes seconds: it hands on as many tokens, as wide. The
graphs of CLIP are traced beside it, and their time stands in the place of the small tower's.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from rich.console import Console

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.cli.tables import table
from edgeprune.estimate.language_model import read_language_model
from edgeprune.export import Request as ExportRequest
from edgeprune.export import export_bundle
from edgeprune.export.assemble import Request, assemble
from edgeprune.export.baselines import unpruned
from edgeprune.export.cost import formula
from edgeprune.export.graph import to_onnx
from edgeprune.export.storage import file_of, save_graphs
from edgeprune.pruners import fastervlm
from edgeprune.runtime.backends.ort import open_session
from edgeprune.runtime.generate.bench import WholeLedger, bench_whole
from edgeprune.runtime.runner import PIXELS
from edgeprune.trace import PrunedEncoder, outputs
from tests.conftest import CLIP_PROCESSOR, LLAVA_7B_VISION

pytest.importorskip("onnxruntime_genai")

KEEP, ROUNDS, REPEATS = 64, 3, 2
QUESTION = " ".join(["what color is the square?"] * 4 + ["what color is the red"])
"""40 ids with what the template writes around it"""
TEXT_TOKENS = 40
TINY = Path(__file__).parents[2] / "edgeprune/models/tiny"
SMALL_TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
PROCESSOR = {
    "processor_class": "LlavaProcessor",
    "patch_size": 14,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
    "image_token": "<image>",
}
TEXT: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 32000,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MakeModel = Callable[..., Path]
Hold = Callable[..., None]


class Encoder(NamedTuple):
    """CLIP with its projector, pruned and unpruned."""

    ms: tuple[float, float]
    multiply_adds: tuple[int, int]


def llava(model_folder: MakeModel, folder: Path, vision: dict[str, Any], text: dict[str, Any]) -> Path:
    """Its checkpoint, with the tokenizer of the embedded model."""
    model = model_folder(
        folder,
        "LlavaForConditionalGeneration",
        {**CLIP_PROCESSOR, "crop_size": 336, "size": 336},
        image_token_index=3,
        vision_config={"model_type": "clip_vision_model", **LLAVA_7B_VISION, **vision},
        text_config=text,
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(TINY / name, model / name)
    (model / "processor_config.json").write_text(json.dumps(PROCESSOR))
    return model


@pytest.fixture(scope="module")
def bundle(model_folder: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(bundle, checkpoint)"""
    folder = tmp_path_factory.mktemp("whole")
    model = llava(model_folder, folder / "model", SMALL_TOWER, TEXT)
    request = ExportRequest("fastervlm", "cpu", model=str(model), keep=KEEP, output=folder / "bundle", runtime=False)
    return export_bundle(request).folder, model


@pytest.fixture(scope="module")
def clip(model_folder: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """Both graphs of one file of weights, in turns."""
    folder = tmp_path_factory.mktemp("clip")
    model = llava(model_folder, folder / "model", {}, {**TEXT, "num_hidden_layers": 1, "vocab_size": 64})
    encoder = encoders.load(open_checkpoint(str(model)))
    pixels = torch.randn(1, 3, 336, 336, generator=torch.Generator().manual_seed(0))
    sides = {"pruned": (encoder, fastervlm.Method(KEEP)), "unpruned": unpruned(encoder)}
    graphs = {
        name: to_onnx(PrunedEncoder(one, method), pixels, outputs(one, method), opset=18, ir_version=10)
        for name, (one, method) in sides.items()
    }
    save_graphs(folder, graphs)
    costs = [formula(one, method) for one, method in sides.values()]
    del graphs, encoder, sides
    sessions = [open_session(folder / file_of(name), threads=1) for name in ("pruned", "unpruned")]
    times = []
    for _ in range(ROUNDS + 1):
        round_ms = []
        for session in sessions:
            begun = time.process_time()
            session.run({PIXELS: pixels.numpy()})
            round_ms.append(1e3 * (time.process_time() - begun))
        times.append(round_ms)
    pruned, every = np.median(times[1:], axis=0)
    return Encoder((float(pruned), float(every)), (costs[0], costs[1]))


@pytest.mark.parametrize("precision", ["float32", "int4"])
def test_prefill_and_first_token_with_64_of_576_tokens(
    bundle: tuple[Path, Path],
    clip: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hold: Hold,
    precision: str,
) -> None:
    folder, model = tmp_path / "assembled", str(bundle[1])
    assemble(Request(bundle[0], model, output=folder, decoder_precision=precision, answers=False))
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    found = [bench_whole(folder, threads=1, rounds=ROUNDS, new_tokens=2, question=QUESTION) for _ in range(REPEATS)]
    assert found[0].text_tokens == TEXT_TOKENS
    _print(precision, found[0], clip, folder)
    hold(f"{precision} prefill, pruned / unpruned", [_prefill(one) for one in found], most=0.20)
    hold(f"{precision} first token, pruned / unpruned", [_first_token(one, clip) for one in found])


def _prefill(one: WholeLedger) -> float:
    return one.pruned.ms["prefill"] / one.unpruned.ms["prefill"]


def _first_token(one: WholeLedger, clip: Encoder) -> float:
    pruned, every = (_parts(one, clip, at) for at in (0, 1))
    return sum(pruned.values()) / sum(every.values())


def _parts(one: WholeLedger, clip: Encoder, at: int) -> dict[str, float]:
    """Milliseconds up to the first token, with CLIP in the place of the small tower. at: 0 pruned, 1 unpruned"""
    side = (one.pruned, one.unpruned)[at]
    return {"image": side.ms["image"], "encoder": clip.ms[at], "prefill": side.ms["prefill"]}


def _print(precision: str, one: WholeLedger, clip: Encoder, folder: Path) -> None:
    """Each part beside its multiply-adds by the formulas of --language-model."""
    language = read_language_model(folder / "config.json")
    prompts = (one.pruned.prompt_tokens, one.unpruned.prompt_tokens)
    told = {"encoder": clip.multiply_adds, "prefill": tuple(language.prefill(length) for length in prompts)}
    told["first token"] = tuple(sum(told[part][at] for part in ("encoder", "prefill")) for at in (0, 1))
    shown = table(
        f"{one.engine} {one.version}, decoder {precision}, {one.unpruned.image_tokens} and {one.pruned.image_tokens} "
        f"image tokens + {one.text_tokens} of text, CPU ms of one thread, {one.rounds} rounds",
        "part", "unpruned >", "share >", "pruned >", "share >", "ratio >", "G multiply-adds >", "ratio >",
    )  # fmt: skip
    pruned, every = (_parts(one, clip, at) for at in (0, 1))
    wholes = sum(pruned.values()), sum(every.values())
    for part in (*pruned, "first token"):
        ours, theirs = pruned.get(part, wholes[0]), every.get(part, wholes[1])
        few, all_of_them = told.get(part, (0, 0))
        costs = (f"{all_of_them / 1e9:.1f} -> {few / 1e9:.1f}", f"{few / all_of_them:.3f}") if few else ("", "")
        shown.add_row(
            part, f"{theirs:.0f}", f"{theirs / wholes[1]:.1%}", f"{ours:.0f}", f"{ours / wholes[0]:.1%}",
            f"{ours / theirs:.3f}", *costs,
        )  # fmt: skip
    Console(width=120).print(shown)
