"""A method that is asked in CLIP's space: the bundle brings the tower that makes words into vectors."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeprune.errors import ModelError, RequestError
from edgeprune.export import Exported, Request
from edgeprune.export.job import export_bundle
from edgeprune.export.request import check
from edgeprune.runtime import TokenEncoder, load
from edgeprune.runtime.show import draw
from tests.covering import always
from tests.export.test_text import write_clip

SCENE = Path(__file__).parents[2] / "edgeprune" / "models" / "tiny" / "scenes" / "scene00.png"
GIVEN = {"method": "cdpruner", "target": "cpu", "keep": 24, "baselines": False, "runtime": False}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole CLIP whose tower is as wide as that of the embedded model."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip", 2, width=128)


@pytest.fixture(scope="module")
def bundle(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asked") / "bundle"
    exported = export_bundle(Request(**GIVEN, text_model=str(clip), split=True, output=folder))  # type: ignore[arg-type]
    assert all(report.passed and report.proven for report in exported.reports)
    return folder


@pytest.mark.slow
def test_a_question_in_words_chooses_as_its_vector_does(bundle: Path) -> None:
    with load(bundle, device="cpu", kind=TokenEncoder) as encoder:
        assert encoder.manifest.ports["text"]["space"] == "aligned"
        vector = encoder._text_encoder("which one is red?")
        seen = encoder.encode(SCENE)
        for chosen in (encoder(SCENE, text="which one is red?"), seen.select(text="which one is red?")):
            np.testing.assert_array_equal(chosen.indices, encoder(SCENE, text=vector).indices)


@pytest.mark.slow
def test_the_least_alike_are_kept_as_the_official_code_does(bundle: Path, clip: Path) -> None:
    """By the formula, from transformers' own CLIP: its post_layernorm and visual_projection on every patch."""
    from transformers import CLIPModel

    from edgeprune import encoders
    from edgeprune.checkpoint import open_checkpoint

    model: Any = CLIPModel.from_pretrained(clip)  # in evaluation mode
    encoder = encoders.load(open_checkpoint(None))
    with load(bundle, device="cpu", kind=TokenEncoder) as runner, torch.inference_mode():
        question = torch.from_numpy(runner._text_encoder("a circle"))
        got = runner(SCENE, text="a circle")
        pixels = torch.from_numpy(runner.prepare(SCENE))
        hidden = encoder.tower.module(pixels, output_hidden_states=True).hidden_states[encoder.layer][:, 1:]
        joint = model.visual_projection(model.vision_model.post_layernorm(hidden))[0].double()
        x = encoder.project(hidden)[0].double()
    x, joint = (one / one.norm(dim=-1, keepdim=True) for one in (x, joint))
    relevance = -(joint @ question.double())
    r = (relevance - relevance.min()) / (relevance.max() - relevance.min())
    kernel = r[:, None] * (x @ x.T) * r[None]
    chosen: list[int] = []
    for _ in range(24):
        within = kernel[chosen][:, chosen]
        gains = torch.stack(
            [
                kernel[j, j] - (kernel[j, chosen] @ torch.linalg.solve(within, kernel[chosen, j]) if chosen else 0)
                for j in range(len(x))
            ]
        )
        gains[chosen] = -torch.inf
        chosen.append(int(gains.argmax()))
    assert sorted(chosen) == got.indices[0].tolist()


@pytest.mark.slow
def test_the_picture_of_it_says_what_was_asked(bundle: Path) -> None:
    assert draw(bundle, SCENE, inputs={"text": "a circle"}, device="cpu").size[0] > 0


@pytest.mark.parametrize("method", always(["desap", "hiprune_text", "sppruner"]))  # cdpruner is above
def test_what_is_asked_is_exported_and_judged(method: str, clip: Path, tmp_path: Path) -> None:
    options = {**GIVEN, "method": method, "target": "jetson-orin"}
    (report,) = export_bundle(Request(**options, text_model=str(clip), output=tmp_path / "asked")).reports  # type: ignore[arg-type]
    assert report.passed
    assert report.proven


@pytest.mark.parametrize("precision", always(["float32", "float16"]))
def test_hawk_is_asked_by_queries_of_the_language_model(tmp_path: Path, precision: str) -> None:
    """By the formula, from transformers' own layers."""
    from edgeprune.quality.language import load_language

    options = {**GIVEN, "method": "hawk", "target": "jetson-orin" if precision == "float16" else "cpu"}
    exported = export_bundle(Request(**options, split=True, output=tmp_path / "hawk"))  # type: ignore[arg-type]
    assert all(report.passed and report.proven for report in exported.reports)
    assert exported.manifest.ports["text"]["space"] == "queries"
    if precision == "float16":
        return
    language = load_language()
    layer, embed = language.model.model.language_model.layers[0], language.model.get_input_embeddings()
    question = "what color is the square?"
    with load(exported.folder, device="cpu", kind=TokenEncoder) as runner, torch.inference_mode():
        chosen = runner.encode(SCENE).select(text=language.queries(question))
        _, behind = language.prompt(question)
        q = layer.self_attn.q_proj(layer.input_layernorm(embed(torch.tensor(behind)))).mean(dim=0).view(4, 32)
        pixels = torch.from_numpy(runner.prepare(SCENE))
        x = language.model.model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output[0]
        k = layer.self_attn.k_proj(layer.input_layernorm(x)).view(-1, 4, 32)
    s = torch.einsum("nhd,hd->hn", k, q)
    scores = (s / s.norm(dim=1, keepdim=True)).mean(dim=0)
    assert sorted(scores.topk(24).indices.tolist()) == chosen.indices[0].tolist()


def test_a_checkpoint_without_a_language_model_has_no_keys_of_one(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="keys of a language model are asked for, and clip has none"):
        export_bundle(Request(**{**GIVEN, "method": "hawk"}, model=str(clip), output=tmp_path / "x"))  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


def test_another_encoder_is_told_where_its_space_is() -> None:
    with pytest.raises(Exception, match=re.escape("give --text-model, the CLIP checkpoint that its tower is of")):
        export_bundle(Request(**GIVEN, output=Path("not-written")))  # type: ignore[arg-type]


def test_a_clip_of_another_width_is_refused(tmp_path: Path) -> None:
    other = write_clip(tmp_path / "clip", 2)
    with pytest.raises(ModelError, match="must be the one that the encoder's tower was taken from"):
        export_bundle(Request(**GIVEN, text_model=str(other), output=tmp_path / "x"))  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


def test_nothing_asks_what_is_not_asked() -> None:
    asked = "cdpruner, covipal, desap, focusui, hawk, hiprune_text, mmtok, sppruner, trim"
    with pytest.raises(RequestError, match=f"--text-model goes with a method that is asked: {asked}; got fastervlm"):
        check(Request("fastervlm", "cpu", keep=24, text_model="clip"))


@pytest.mark.slow
def test_words_without_a_text_side_are_refused(exported_once: Callable[..., Exported]) -> None:
    folder = exported_once("cdpruner", "cpu", keep=24, baselines=False, options={"form": "openvino"}).folder
    line = "text must be numbers, [1, 128]: the question: the mean embedding"
    with load(folder, device="cpu", kind=TokenEncoder) as encoder, pytest.raises(RequestError, match=re.escape(line)):
        encoder(SCENE, text="which one is red?")


# --- other methods that are asked -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_trim_keeps_the_least_alike_and_the_mean_of_the_others(clip: Path, tmp_path: Path) -> None:
    """By the formula, from transformers' own CLIP, whose text embeddings are of any length."""
    from transformers import CLIPModel

    from edgeprune import encoders
    from edgeprune.checkpoint import open_checkpoint

    source: Any = CLIPModel
    request = Request(**{**GIVEN, "method": "trim"}, text_model=str(clip), output=tmp_path / "trim")  # type: ignore[arg-type]
    exported = export_bundle(request)
    assert all(report.passed and report.proven for report in exported.reports)
    model, encoder = source.from_pretrained(clip).eval(), encoders.load(open_checkpoint(None))
    with load(exported.folder, device="cpu", kind=TokenEncoder) as runner, torch.inference_mode():
        with pytest.raises(RequestError, match=r"text must be given: the question: .*; trim chooses by it"):
            runner(SCENE)
        question = torch.from_numpy(runner._text_encoder("a circle", truncated=True, unit=False))
        got = runner(SCENE, text="a circle")
        hidden = encoder.tower.module(torch.from_numpy(runner.prepare(SCENE)), output_hidden_states=True)
        features = hidden.hidden_states[encoder.layer][:, 1:]
        joint = model.visual_projection(model.vision_model.post_layernorm(features))[0]
        order = (joint @ question).argsort()
        mean = encoder.project(features[0, order[23:]].mean(dim=0))
    assert sorted(order[:24].tolist()) == got.indices[0].tolist()
    at = got.indices[0].tolist().index(int(order[23]))
    np.testing.assert_allclose(got.tokens[0, at], mean.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", always(["float32", "float16"]))
def test_mmtok_is_asked_word_by_word(tmp_path: Path, precision: str) -> None:
    options = {**GIVEN, "method": "mmtok", "target": "jetson-orin" if precision == "float16" else "cpu"}
    exported = export_bundle(Request(**options, options={"texts": "4"}, split=True, output=tmp_path / "words"))  # type: ignore[arg-type]
    assert all(report.passed for report in exported.reports)
    assert exported.manifest.ports["text"]["beside"] == "text_mask"
    with load(exported.folder, device="cpu", kind=TokenEncoder) as runner:
        assert runner.manifest.inputs["text"].shape == (1, 4, 128)
        words = np.random.default_rng(0).normal(size=(4, 128)).astype(np.float32)
        seen, nothing = runner.encode(SCENE), np.zeros(4, np.float32)
        asked = seen.select(text=words, text_mask=nothing + 1).indices
        np.testing.assert_array_equal(asked, runner(SCENE, text=words, text_mask=nothing + 1).indices)
        np.testing.assert_array_equal(
            runner(SCENE, text=words, text_mask=nothing).indices, runner(SCENE).indices
        )  # none of the rows is a word
        assert asked.tolist() != runner(SCENE).indices.tolist()
        for alone, missing in (({"text": words}, "text_mask"), ({"text_mask": nothing + 1}, "text")):
            with pytest.raises(RequestError, match=f"{missing} must be given with {next(iter(alone))}: "):
                runner(SCENE, **alone)
