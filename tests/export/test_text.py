"""A CLIP's text tower as a file: what ONNX Runtime makes of a question is what transformers and CDPruner's code make.

The CLIP is tiny and seeded, its tokenizer a byte-level BPE that learned a few lines; both are of transformers' classes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgeprune.checkpoint import open_checkpoint
from edgeprune.errors import ModelError
from edgeprune.export.text import TextSide, write_text
from edgeprune.runtime.text import TextEncoder
from tests.conftest import TINY_VISION, write_processor
from tests.covering import always

tokenizers = pytest.importorskip("tokenizers")

LINES = ("which one is red?", "what colour is the square in the picture?", "is there a cat on the left?")
PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
WIDTH, ROW = 24, 77
QUESTIONS = {
    "short": "Which one is RED?",
    "empty": "",
    "other script": "какой квадрат красный? 赤いのはどれ?",
    "just one row": "red " * 75,
    "two rows": "which one is red? " * 20,
    "four rows": "what colour is the square in the picture? " * 25 + "красный",
    "special words": "is <|endoftext|> red?",
}
LEGACY = {2: "largest_id", 0: "first_eos"}
"""eos_token_id of the config (0: the tokenizer's) -> how a row is read"""


def write_words(folder: Path) -> int:
    """vocab.json and merges.txt. Returns the number of words, of which the last two are BOS and EOS."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    pieces = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PIECES), "removed", invert=True)
    in_bytes = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([pieces, in_bytes])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=in_bytes.alphabet(), end_of_word_suffix="</w>", show_progress=False
    )
    made.train_from_iterator(LINES * 3, trainer)
    model = json.loads(made.to_str())["model"]
    words = [*model["vocab"], *(f"{byte}</w>" for byte in sorted(in_bytes.alphabet()))]
    words = [*dict.fromkeys(words), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(("#version: 0.2", *merges)))
    return len(words)


def write_clip(folder: Path, eos: int, width: int = TINY_VISION["hidden_size"]) -> Path:
    """width: of its tower"""
    from transformers import CLIPConfig, CLIPModel

    folder.mkdir()
    words = write_words(folder)
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"vocab_size": words, "bos_token_id": words - 2, "eos_token_id": eos or words - 1, "pad_token_id": 1}
    torch.manual_seed(0)
    config = CLIPConfig(
        vision_config={**TINY_VISION, "hidden_size": width, "projection_dim": WIDTH},
        text_config={**text, **ids, "projection_dim": WIDTH},
        projection_dim=WIDTH,
    )
    model = CLIPModel(config)
    with torch.no_grad():
        for name, value in model.text_model.named_parameters():
            value.mul_(3) if value.dim() > 1 and "embedding" not in name else value.add_(0.1 * torch.randn_like(value))
    model.save_pretrained(folder)
    write_processor(folder, TINY_VISION["image_size"])
    return folder


@pytest.fixture(scope="module", params=always(LEGACY, max(LEGACY)), ids=[*LEGACY.values()])
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("text") / "clip", request.param)


@pytest.fixture(scope="module")
def written(clip: Path) -> tuple[Path, TextSide]:
    folder = clip.parent / "bundle"
    folder.mkdir()
    return folder, write_text(folder, open_checkpoint(str(clip)))


@pytest.fixture(scope="module")
def encoder(written: tuple[Path, TextSide]) -> TextEncoder:
    return TextEncoder(written[0], threads=1)


@pytest.fixture(scope="module")
def one_kind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("one") / "clip", 2)


@pytest.fixture
def copy(one_kind: Path, tmp_path: Path) -> Path:
    """For what has nothing to do with how a row is read."""
    return Path(shutil.copytree(one_kind, tmp_path / "clip"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "bundle").mkdir()
    return tmp_path / "bundle"


@pytest.fixture
def traced(one_kind: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph of its weights as it was made once, for what is about the files around it."""
    kept = one_kind.parent / "kept"
    if not kept.exists():
        kept.mkdir()
        write_text(kept, open_checkpoint(str(one_kind)))
    monkeypatch.setattr("edgeprune.export.text.to_onnx", lambda *given, **options: ir.load(kept / "text.onnx"))


def official(clip: Path) -> tuple[Callable[..., dict[str, Tensor]], Callable[..., Tensor]]:
    """The tokenizer and text_embeds, as CDPruner and TRIM load them."""
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    model: Any = CLIPTextModelWithProjection.from_pretrained(clip)  # in evaluation mode
    tokenizer: Any = CLIPTokenizer.from_pretrained(clip)

    def embedded(**inputs: Tensor) -> Tensor:
        with torch.no_grad():
            vectors: Tensor = model(**inputs).text_embeds
        return vectors

    return lambda text, **options: dict(tokenizer(text=text, return_tensors="pt", **options)), embedded


def in_rows(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """ids and mask [1, L] -> [M, 77]: M = (L - 1) // 77 + 1, zeros behind both, cut into rows."""
    length = inputs["input_ids"].shape[1]
    count = (length - 1) // ROW + 1
    return {
        name: torch.nn.functional.pad(one, (0, count * ROW - length)).reshape(count, ROW)
        for name, one in inputs.items()
    }


def unit(vectors: Tensor) -> Tensor:
    scaled: Tensor = vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return scaled


def close(given: NDArray[Any], expected: Tensor) -> None:
    np.testing.assert_allclose(given, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", QUESTIONS)
def test_rows_and_vectors_are_those_of_the_official_code(clip: Path, encoder: TextEncoder, kind: str) -> None:
    tokenized, embedded = official(clip)
    inputs = in_rows(tokenized(QUESTIONS[kind]))
    rows = encoder.rows(QUESTIONS[kind])
    assert rows.tolist() == inputs["input_ids"].tolist()
    assert len(rows) == {"just one row": 1, "two rows": 2, "four rows": 4}.get(kind, 1)
    vectors = embedded(**inputs)
    close(encoder.session.run({"input_ids": rows})["text_embeds"], vectors)
    close(encoder(QUESTIONS[kind]), unit(vectors).mean(0))


def test_a_product_with_the_vector_is_the_mean_relevance_of_the_official_code(clip: Path, encoder: TextEncoder) -> None:
    """mean over M of the cosines, which CDPruner then negates."""
    tokenized, embedded = official(clip)
    rows = unit(embedded(**in_rows(tokenized(QUESTIONS["four rows"]))))
    patches = unit(torch.randn(36, WIDTH, generator=torch.Generator().manual_seed(2)))
    close(patches.numpy() @ encoder(QUESTIONS["four rows"]), (patches @ rows.T).mean(-1))


@pytest.mark.parametrize("kind", QUESTIONS)
def test_truncated_they_are_those_of_trim(clip: Path, encoder: TextEncoder, kind: str) -> None:
    """One row, no longer than it needs to be, and a vector as it comes."""
    tokenized, embedded = official(clip)
    inputs = tokenized(QUESTIONS[kind], truncation=True, max_length=ROW, padding=True)
    (row,) = encoder.rows(QUESTIONS[kind], truncated=True)
    assert row[: inputs["input_ids"].shape[1]].tolist() == inputs["input_ids"][0].tolist()
    (expected,) = embedded(**inputs)
    close(encoder(QUESTIONS[kind], truncated=True, unit=False), expected)
    close(encoder(QUESTIONS[kind], truncated=True), unit(expected))


def test_questions_differ_and_the_first_row_of_a_long_one_says_nothing(encoder: TextEncoder) -> None:
    """No EOS is in it: what is read there is BOS, which sees nothing else."""
    red, left = encoder(["which one is red?", "is there a cat on the left?"])
    assert np.abs(red - left).max() > 0.05
    rows = [encoder.rows(text * 20) for text in LINES[:2]]
    first, second = (encoder.session.run({"input_ids": one[:1]})["text_embeds"] for one in rows)
    assert not np.array_equal(rows[0][0], rows[1][0])
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-6)


def test_what_was_written_is_said(clip: Path, written: tuple[Path, TextSide]) -> None:
    folder, side = written
    config = json.loads((clip / "config.json").read_text())["text_config"]
    words = config["vocab_size"]
    assert side == TextSide(
        model="clip",
        revision="local",
        length=ROW,
        width=WIDTH,
        bos=words - 2,
        eos=words - 1,
        fill=0,
        pooling=LEGACY.get(config["eos_token_id"], "first_eos"),
        files=("text.onnx", "tokenizer.json"),
    )
    assert sorted(path.name for path in folder.iterdir()) == sorted(side.files)


def test_the_graph_is_plain(written: tuple[Path, TextSide]) -> None:
    model = onnx.load(written[0] / "text.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, [(one.domain, one.version) for one in model.opset_import]) == (10, [("", 18)])
    (ids,), (vectors,) = model.graph.input, model.graph.output
    assert (ids.name, ids.type.tensor_type.elem_type) == ("input_ids", onnx.TensorProto.INT64)
    assert (vectors.name, vectors.type.tensor_type.elem_type) == ("text_embeds", onnx.TensorProto.FLOAT)
    shapes = [[size.dim_param or size.dim_value for size in one.type.tensor_type.shape.dim] for one in (ids, vectors)]
    assert shapes == [["batch", ROW], ["batch", WIDTH]]
    assert str(Path(torch.__file__).parent).encode() not in model.SerializeToString()


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_large_weights_lie_beside_it(copy: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.export.storage.INLINE_NBYTES", 4000)
    side = write_text(bundle, open_checkpoint(str(copy)))
    assert side.files == ("text.onnx", "text.onnx.data", "tokenizer.json")
    assert sorted(path.name for path in bundle.iterdir()) == sorted(side.files)
    tokenized, embedded = official(copy)
    close(TextEncoder(bundle)("red?"), unit(embedded(**tokenized("red?")))[0])


@pytest.mark.usefixtures("traced")
def test_a_tokenizer_json_does_as_well_and_cuts_and_pads_nothing(copy: Path, bundle: Path) -> None:
    from transformers import CLIPTokenizer

    expected = official(copy)[0](QUESTIONS["two rows"])["input_ids"][0].tolist()
    made = cast(Any, CLIPTokenizer.from_pretrained(copy)).backend_tokenizer
    made.enable_truncation(9)
    made.enable_padding(length=12)
    made.save(str(copy / "tokenizer.json"))
    without(copy, "vocab.json", "merges.txt")
    write_text(bundle, open_checkpoint(str(copy)))
    file = tokenizers.Tokenizer.from_file(str(bundle / "tokenizer.json"))
    assert (file.truncation, file.padding) == (None, None)
    assert file.encode(QUESTIONS["two rows"]).ids == expected
    assert len(expected) > ROW


@pytest.mark.usefixtures("traced")
def test_the_width_is_that_of_the_projection_wherever_the_config_says_it(copy: Path, bundle: Path) -> None:
    """CLIPModel reads the outermost projection_dim, and text_config may leave it at 512."""
    rewritten(copy, projection_dim=None)
    assert write_text(bundle, open_checkpoint(str(copy))).width == WIDTH


@pytest.mark.usefixtures("traced")
def test_only_the_text_side_is_read(copy: Path, bundle: Path) -> None:
    """The vision tower may lie in a shard that is not there."""
    tensors = load_file(copy / "model.safetensors")
    own = {name: value for name, value in tensors.items() if name.startswith("text_")}
    save_file(own, copy / "one.safetensors", {"format": "pt"})
    without(copy, "model.safetensors")
    where = {name: "one.safetensors" if name in own else "absent.safetensors" for name in tensors}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert write_text(bundle, open_checkpoint(str(copy))).width == WIDTH


def rewritten(folder: Path, **fields: object) -> None:
    """text_config with these fields, or without those that are None."""
    config = json.loads((folder / "config.json").read_text())
    text = {**config["text_config"], **fields}
    config["text_config"] = {name: value for name, value in text.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


def without(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def without_tensor(folder: Path, lost: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: value for name, value in tensors.items() if name != lost},
        folder / "model.safetensors",
        {"format": "pt"},
    )


def damaged(folder: Path) -> None:
    (folder / "vocab.json").write_text("{")


def longer(folder: Path) -> None:
    words = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({**words, "more": len(words)}))


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "no tokenizer": (
        lambda folder: without(folder, "vocab.json", "merges.txt"),
        r"clip has no tokenizer\.json, nor vocab\.json and merges\.txt; copy its tokenizer",
    ),
    "half of one": (lambda folder: without(folder, "merges.txt"), r"has no tokenizer\.json, nor vocab\.json and"),
    "damaged": (
        damaged,
        r"clip must have a tokenizer of CLIP that transformers reads: \w+",
    ),
    "of another": (longer, r"has ids up to \d+, its text tower \d+ embeddings; copy both from one checkpoint"),
    "eos": (
        lambda folder: rewritten(folder, eos_token_id=5),
        r"reads a question at id 5 \(its eos_token_id is 5\), the tokenizer ends one with \d+; correct eos_token_id",
    ),
    "eos list": (lambda folder: rewritten(folder, eos_token_id=[5, 6]), r"reads a question at id \[5, 6\]"),
    "projection": (
        lambda folder: without_tensor(folder, "text_projection.weight"),
        r"has no tensor text_projection\.\*",
    ),
    "layer": (
        lambda folder: without_tensor(folder, "text_model.final_layer_norm.bias"),
        r"lacks the tensor text_model\.final_layer_norm\.bias of CLIPTextModelWithProjection",
    ),
    "layers": (lambda folder: rewritten(folder, num_hidden_layers=1), r"tensor text_model\.encoder\.layers\.1\."),
    "heads": (lambda folder: rewritten(folder, num_attention_heads=3), "cannot build what config.json describes"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_belong_together_is_refused_and_nothing_is_written(copy: Path, bundle: Path, wrong: str) -> None:
    change, message = WRONG[wrong]
    change(copy)
    with pytest.raises(ModelError, match=message):
        write_text(bundle, open_checkpoint(str(copy)))
    assert not list(bundle.iterdir())


def test_what_is_no_clip_is_refused(llava_folder: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(llava_folder(tmp_path / "other")))
    with pytest.raises(ModelError, match=r"need a CLIP with both of its towers .*, other is a llava; the one of LLaVA"):
        write_text(tmp_path, checkpoint)
