"""Classifiers: unpruned, the logits are transformers' own; what stands in front of them is dropped inside alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgeprune import encoders
from edgeprune.catalog import families, methods, refusal
from edgeprune.checkpoint import Checkpoint, open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import MethodError, ModelError, RequestError
from edgeprune.export.cost import formula, graph_cost
from edgeprune.export.graph import to_onnx
from edgeprune.fit import build_method
from edgeprune.pruners import get, none
from edgeprune.pruners._scorer import load_scorer
from edgeprune.reference import OfficialEncoder
from edgeprune.trace import PrunedEncoder, outputs
from tests.covering import always
from tests.encoders.kinds import CROPPED, SIGLIP, SQUARE, processor
from tests.encoders.test_dinov2 import BIT

CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}
LABELS = {0: "tench", 1: "grey whale", 2: "Ä"}
KEEP = 12
OPTIONS = {"received": {"layer": "1"}}
BOTH: dict[str, Any] = {"vision_config": {**SIGLIP, "num_hidden_layers": 2}}


@dataclass(frozen=True)
class Kind:
    """A ...ForImageClassification, and which of its tokens the classifier reads."""

    family: str
    architecture: str
    processor: dict[str, Any]
    rows: tuple[int, ...]
    mean: bool = False
    config: dict[str, Any] = field(default_factory=dict)


DEIT = processor("DeiT", size=56, crop_size=48)
CLIP = {"vision_config": {**BOTH["vision_config"], "model_type": "clip_vision_model"}}
HEADED = {
    "vit": Kind("vit", "ViTForImageClassification", processor("ViT", **SQUARE), (0,)),
    "deit": Kind("deit", "DeiTForImageClassification", DEIT, (0,)),
    "deit with teacher": Kind("deit", "DeiTForImageClassificationWithTeacher", DEIT, (0, 1)),
    "dinov2": Kind("dinov2", "Dinov2ForImageClassification", BIT, (0,), mean=True),
    "dinov2 registers": Kind("dinov2", "Dinov2WithRegistersForImageClassification", BIT, (0,), mean=True),
    "clip": Kind("clip", "CLIPForImageClassification", processor("CLIP", **CROPPED), (), mean=True, config=CLIP),
    "siglip": Kind("siglip", "SiglipForImageClassification", processor("Siglip", **SQUARE), (), mean=True, config=BOTH),
}
UNDER_HEAD = [one.name for one in methods() if one.traits.under_head]


@pytest.fixture(scope="module")
def folder_of(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    found: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in found:
            one, layers = HEADED[name], {} if HEADED[name].config else {"num_hidden_layers": 2}
            shape = {**layers, **one.config, "id2label": LABELS, "num_labels": len(LABELS)}
            found[name] = model_folder(tmp_path_factory.mktemp("head"), one.architecture, one.processor, **shape)
            _noisy(found[name])
        return found[name]

    return make


def _noisy(folder: Path) -> None:
    """With noise in every tensor, so that the logits hang on every patch."""
    file, seeded = folder / "model.safetensors", torch.Generator().manual_seed(1)
    tensors = load_file(file)
    save_file({name: 0.3 * torch.randn(value.shape, generator=seeded) for name, value in tensors.items()}, file)


@pytest.fixture(scope="module")
def encoder_of(folder_of: Callable[[str], Path]) -> Callable[[str], Encoder]:
    return lambda name: encoders.load(open_checkpoint(str(folder_of(name))), head=True)


def theirs(folder: Path, architecture: str, pixels: Tensor) -> Tensor:
    import transformers

    with torch.inference_mode():
        logits: Tensor = getattr(transformers, architecture).from_pretrained(folder).eval()(pixel_values=pixels).logits
    return logits


def pixels(images: int = 2) -> Tensor:
    return torch.randn(images, 3, 48, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", HEADED)
def test_unpruned_logits_are_transformers_own(
    folder_of: Callable[[str], Path], encoder_of: Callable[[str], Encoder], name: str
) -> None:
    encoder, kind = encoder_of(name), HEADED[name]
    expected = theirs(folder_of(name), kind.architecture, pixels())
    assert expected.std(dim=0).max() > 0.01  # logits that are all alike would tell nothing
    with torch.inference_mode():
        for path in (PrunedEncoder, OfficialEncoder):
            logits = path(encoder, none.Method(encoder.patches)).eval()(pixels())[0]
            torch.testing.assert_close(logits, expected, **CLOSE)


@pytest.mark.parametrize("name", HEADED)
def test_it_says_what_it_gives_what_it_reads_and_how_its_classes_are_called(
    encoder_of: Callable[[str], Encoder], name: str
) -> None:
    encoder, kind = encoder_of(name), HEADED[name]
    assert encoder.head is not None
    assert (encoder.family, encoder.kind) == (kind.family, "logits")
    assert (encoder.head.rows, encoder.head.mean, encoder.head.labels) == (kind.rows, kind.mean, (*LABELS.values(),))
    assert outputs(encoder, none.Method(36)) == ("logits", "indices", "scores")


def built(encoder: Encoder, name: str, scorer: Path) -> Any:
    trained = load_scorer(scorer) if get(name).traits.needs_scorer else None
    keep = None if name == "none" else KEEP
    return build_method(get(name), name, encoder, keep, OPTIONS.get(name, {}), scorer=trained)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        pytest.param(name, method, marks=() if (i + j) % 3 == 0 else pytest.mark.slow)
        for i, name in enumerate(HEADED)
        for j, method in enumerate(UNDER_HEAD)
    ],  # each classifier always with a third of the methods
)
def test_methods_that_drop_inside_give_the_logits_of_the_reference(
    encoder_of: Callable[[str], Encoder], scorer_file: Path, name: str, method: str
) -> None:
    encoder = encoder_of(name)
    one = built(encoder, method, scorer_file)
    with torch.inference_mode():
        traced, expected = (path(encoder, one).eval()(pixels()) for path in (PrunedEncoder, OfficialEncoder))
    assert torch.equal(traced[1], expected[1])
    torch.testing.assert_close(traced[0], expected[0], **CLOSE)
    if method != "none":
        with torch.inference_mode():
            whole = PrunedEncoder(encoder, none.Method(encoder.patches)).eval()(pixels())[0]
        assert (traced[0] - whole).abs().max() > 0.01  # what is left out has a say


def test_of_the_patches_those_that_are_kept_are_averaged(encoder_of: Callable[[str], Encoder]) -> None:
    """Dropped in front of every layer, it is the classifier of a shorter image: the model's own, on those tokens."""
    encoder = encoder_of("siglip")
    one = build_method(get("uniform"), "uniform", encoder, KEEP)
    with torch.inference_mode():
        logits, indices, *_ = PrunedEncoder(encoder, one).eval()(pixels())
        tower: Any = encoder.tower.module
        hidden = tower.embeddings(pixels())[torch.arange(2)[:, None], indices.long()]
        last = tower.post_layernorm(tower.encoder(inputs_embeds=hidden).last_hidden_state)
        (expected,) = encoder.projector(last.mean(dim=1, keepdim=True))
    torch.testing.assert_close(logits, expected, **CLOSE)


@pytest.mark.parametrize(
    "name", always([one.name for one in methods() if not one.traits.under_head], "fastervlm", "divprune", "visionzip")
)
def test_a_method_that_drops_behind_the_encoder_is_refused_with_those_that_do_not(
    encoder_of: Callable[[str], Encoder], name: str
) -> None:
    instead = ", ".join(UNDER_HEAD)
    with pytest.raises(MethodError) as error:
        build_method(get(name), name, encoder_of("vit"), KEEP)
    assert str(error.value) == (
        f"{name} drops tokens behind the encoder, too late for the head of vit, which gives logits; use {instead}"
    )


@pytest.mark.slow
def test_the_table_of_methods_refuses_the_same() -> None:
    headed = [one for one in families() if "head" in one.options]
    assert {one.name for one in headed} == {kind.family for kind in HEADED.values()}
    for family in headed:
        for method in methods():
            reason = refusal(method, family, head=True)
            assert reason == ("" if method.traits.under_head else "tokens dropped behind the encoder")


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("dinov2 registers", "received"),
        pytest.param("vit", "none", marks=pytest.mark.slow),
        *(
            pytest.param(name, method, marks=pytest.mark.slow)
            for name in ("deit with teacher", "dinov2 registers", "clip", "siglip")
            for method in ("none", "uniform")
        ),
    ],
)
def test_the_last_layer_works_for_what_the_head_reads_alone(
    encoder_of: Callable[[str], Encoder], scorer_file: Path, name: str, method: str
) -> None:
    """Every multiply-add of the graph is one of the formula, which has that of the patch embedding beside it."""
    encoder = encoder_of(name)
    one = built(encoder, method, scorer_file)
    graph = to_onnx(PrunedEncoder(encoder, one).eval(), pixels(1), outputs(encoder, one), opset=18, ir_version=10)
    embedding = encoder.patches * encoder.tower.patch_embedding.weight.numel()
    assert graph_cost(graph.graph) == formula(encoder, one) + embedding


def test_a_layer_is_refused_for_the_classifier_reads_the_last(folder_of: Callable[[str], Path]) -> None:
    with pytest.raises(RequestError, match="reads the last layer: --layer must be left out, got 1"):
        encoders.load(open_checkpoint(str(folder_of("vit"))), 1, head=True)


@pytest.mark.parametrize(
    ("name", "why"), [("aimv2", "no classifier of it is read"), ("yolos", "its heads are exported as they are")]
)
def test_a_family_without_a_classifier_is_refused(
    made: Callable[[str], tuple[Path, Encoder]], name: str, why: str
) -> None:
    with pytest.raises(RequestError, match=f"{name} takes no --head: {why}; leave it out"):
        encoders.load(open_checkpoint(str(made(name)[0])), head=True)


def test_a_checkpoint_without_a_classifier_is_refused(made: Callable[[str], tuple[Path, Encoder]]) -> None:
    with pytest.raises(ModelError, match=r"has no classifier\.weight and classifier\.bias; leave --head out"):
        encoders.load(open_checkpoint(str(made("vit")[0])), head=True)


def edited(folder: Path, to: Path, **config: Any) -> Checkpoint:
    """The checkpoint with other fields in its config.json."""
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    given = json.loads((folder / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**given, **config}))
    return open_checkpoint(str(to))


@pytest.mark.parametrize(
    ("id2label", "names"),
    [
        (None, "it names 2, of 0..1"),
        ({"0": "a", "1": "b"}, "it names 2, of 0..1"),
        ({"0": "a", "1": "b", "3": "c"}, "it names 3, of 0..3"),
    ],
    ids=["none", "too few", "a gap"],
)
def test_classes_that_config_does_not_name_each_are_refused(
    folder_of: Callable[[str], Path], tmp_path: Path, id2label: Any, names: str
) -> None:
    checkpoint = edited(folder_of("vit"), tmp_path / "one", id2label=id2label)
    with pytest.raises(ModelError, match=f"must name the classes 0..2 of its classifier, one each; {names}"):
        encoders.load(checkpoint, head=True)


def test_a_classifier_of_another_width_is_refused(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    checkpoint = edited(folder_of("dinov2"), tmp_path / "one")
    tensors = load_file(tmp_path / "one" / "model.safetensors")
    tensors["classifier.weight"] = tensors["classifier.weight"][:, :32].contiguous()  # on [CLS] alone
    save_file(tensors, tmp_path / "one" / "model.safetensors")
    with pytest.raises(ModelError, match=r"classifier\.weight must be \[classes, 64\] .* they are \[3, 32\] and \[3\]"):
        encoders.load(checkpoint, head=True)
