"""The whole model: what the tokens that are kept do to the time of an answer. `make bench`; about five minutes.

CLIP ViT-L/14-336 in front of a Llama of 12 layers, 1024 wide, 32000 words, seeded: 64 of 576 image tokens and a prompt
of 40 words beside them, onnxruntime-genai, two CPU threads. Both sides take turns in one process.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from edgeprune.cli.tables.whole import whole_line, whole_table
from edgeprune.estimate.bound import bound
from edgeprune.estimate.language_model import read_language_model
from edgeprune.export import Request as ExportRequest
from edgeprune.export import export_bundle
from edgeprune.export.assemble import Request, assemble
from edgeprune.runtime.generate import load_folder
from edgeprune.runtime.generate.bench import WholeLedger, bench_whole
from tests.conftest import CLIP_PROCESSOR, LLAVA_7B_VISION

pytest.importorskip("onnxruntime_genai")

THREADS, ROUNDS, REPEATS = 2, 5, 3
QUESTION = " ".join(["what color is the square?"] * 5 + ["red"])
"""40 ids with what the template writes around it"""
TINY = Path(__file__).parents[2] / "edgeprune/models/tiny"
PROCESSOR = {
    "processor_class": "LlavaProcessor",
    "patch_size": 14,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
    "image_token": "<image>",
}
TEXT = {
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


@pytest.fixture(scope="session")
def bundle(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(bundle, checkpoint)"""
    folder = tmp_path_factory.mktemp("whole")
    vision = {"model_type": "clip_vision_model", **LLAVA_7B_VISION}
    images = {**CLIP_PROCESSOR, "crop_size": 336, "size": 336}
    architecture, given = "LlavaForConditionalGeneration", {"vision_config": vision, "text_config": TEXT}
    model = model_folder(folder / "model", architecture, images, image_token_index=3, **given)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(TINY / name, model / name)
    (model / "processor_config.json").write_text(json.dumps(PROCESSOR))
    request = ExportRequest("fastervlm", "cpu", model=str(model), keep=64, output=folder / "bundle", runtime=False)
    return export_bundle(request).folder, model


@pytest.mark.parametrize("precision", ["float32", "int4"])
def test_prefill_and_first_token_with_64_of_576_tokens(
    bundle: tuple[Path, Path], tmp_path: Path, hold: Callable[..., None], precision: str
) -> None:
    folder, model = tmp_path / "assembled", str(bundle[1])
    assemble(Request(bundle[0], model, output=folder, decoder_precision=precision, answers=False))
    found = [
        bench_whole(folder, threads=THREADS, rounds=ROUNDS, new_tokens=4, question=QUESTION) for _ in range(REPEATS)
    ]
    promised = bound(load_folder(folder).bundle.manifest, read_language_model(folder / "config.json"), None, 40)
    Console(width=100).print(whole_table(found[0], promised))
    print(whole_line(found[0]))
    assert found[0].text_tokens == 40

    def ratios(part: str) -> list[float]:
        return [one.pruned.ms[part] / one.unpruned.ms[part] for one in found]

    hold(f"{precision} prefill, pruned / unpruned", ratios("prefill"), most=0.20)
    hold(f"{precision} first token, pruned / unpruned", ratios("first token"))
    _shares(found[0])


def _shares(ledger: WholeLedger) -> None:
    for name, side in (("pruned", ledger.pruned), ("unpruned", ledger.unpruned)):
        print(f"{name}: " + ", ".join(f"{part} {side.share(part):.1%}" for part in ("image", "encoder", "prefill")))
