"""Which engine takes which model: every cell says what torch says with the same tokens, or says why it does not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import Gemma3TextConfig, GemmaConfig, LlavaNextConfig

from edgeprune.errors import EdgepruneError, ModelError, RequestError
from edgeprune.export.assemble import Request, assemble
from tests.export.assemble.asking import PHOTOS, PROMPTS, QUESTIONS, Made
from tests.export.assemble.kinds import DECODERS, KINDS

FROM_THE_GRID = (
    r"onnxruntime-genai counts the tokens of .* from the image's grid and refuses fewer; use --engine onnxruntime"
)
GENAI = {
    "llava": "",
    "llava next": "",
    "llava onevision": "",
    "internvl": "",
    "internvl tiles": "",
    "qwen2 vl": FROM_THE_GRID,
    "qwen2.5 vl": FROM_THE_GRID,
    "qwen3 vl": FROM_THE_GRID,
    "cosmos3 omni": FROM_THE_GRID,
    "vipllava": "",
    "lighton ocr": "",
    "smolvlm": "",
    "idefics3": "",
}
"""kind -> why genai refuses it; ONNX Runtime alone takes every kind (test_ort)"""
IN_EVERY_RUN = ()
"""test_genai.py always has the embedded model"""

CELLS = [pytest.param(name, marks=() if name in IN_EVERY_RUN else pytest.mark.slow) for name in GENAI]


def test_every_kind_has_a_cell() -> None:
    assert set(GENAI) == set(KINDS)


@pytest.mark.parametrize("kind", CELLS)
def test_genai_says_what_torch_says_or_why_not(
    made: Callable[..., Made], exported_kind: Callable[[str], tuple[Any, Path]], kind: str
) -> None:
    if GENAI[kind]:
        folder = exported_kind(kind)[1]
        with pytest.raises(RequestError, match=GENAI[kind]):
            assemble(Request(folder / "bundle", str(folder / "model"), output=folder / "refused"))
        assert not (folder / "refused").exists()
        return
    _check(made(kind, "genai"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["genai", "onnxruntime"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_that_the_builder_has_says_what_torch_says(
    made: Callable[..., Made], decoder: str, engine: str
) -> None:
    _check(made(decoder, engine))


def test_gemma_3_is_refused_as_the_builder_cannot_read_its_positions(
    exported_kind: Callable[[str], tuple[Any, Path]], tmp_path: Path
) -> None:
    folder = exported_kind("llava next")[1]
    config = LlavaNextConfig.from_pretrained(folder / "model")
    config.text_config = Gemma3TextConfig(vocab_size=101, hidden_size=48)
    shutil.copytree(folder / "model", tmp_path / "model")
    config.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=r"one kind of rotary positions, .* has several \(.*full_attention.*\)"):
        assemble(Request(folder / "bundle", str(tmp_path / "model"), output=tmp_path / "new"))


def test_a_language_model_that_attends_both_ways_is_refused_before_it_is_built(
    exported_kind: Callable[[str], tuple[Any, Path]], tmp_path: Path
) -> None:
    """As PaliGemma's does to its prefix: the builder would write the same decoder, which says something else."""
    folder = exported_kind("llava next")[1]
    config = LlavaNextConfig.from_pretrained(folder / "model")
    config.text_config = GemmaConfig(vocab_size=101, hidden_size=48, use_bidirectional_attention=True)
    shutil.copytree(folder / "model", tmp_path / "model")
    config.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=r"must attend backwards alone, .* attends to its prompt both ways"):
        assemble(Request(folder / "bundle", str(tmp_path / "model"), output=tmp_path / "new"))


def _check(one: Made) -> None:
    answers = []
    for photo, question in PROMPTS:
        prompt = one.prompt([photo], question)
        answers.append(one.says(prompt))
        assert answers[-1] == one.torch_says([photo], prompt.ids)
    assert answers[: len(answers) // 2] != answers[len(answers) // 2 :]  # which photo it is changes what is said
    turns = one.prompt(PHOTOS[:1], *QUESTIONS[:2])
    assert one.says(turns) == one.torch_says(PHOTOS[:1], turns.ids)


def test_what_fails_leaves_nothing(
    exported_kind: Callable[[str], tuple[Any, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeprune.export.assemble import job

    def broken(*given: Any) -> Any:
        raise EdgepruneError("the builder failed")

    monkeypatch.setattr(job, "build", broken)
    folder = exported_kind("llava next")[1]
    before = sorted(folder.iterdir())
    with pytest.raises(EdgepruneError, match="the builder failed"):
        assemble(Request(folder / "bundle", str(folder / "model"), output=folder / "new" / "model"))
    assert sorted(folder.iterdir()) == before
