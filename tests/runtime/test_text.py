"""Questions to vectors, with a graph whose every number is known: a sum over places of place times embedding.

text_embeds[m] = sum_p PLACE[p] TABLE[input_ids[m, p]]        rows of 7 ids, vectors of width 5
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeprune.errors import BundleError, MissingPackageError, RequestError
from edgeprune.runtime.text import TextEncoder

tokenizers = pytest.importorskip("tokenizers")

ROOT = Path(__file__).parents[2]
WORDS = ("which", "one", "is", "red", "the", "square", "?", "<s>", "</s>", "unknown")
BOS, EOS = WORDS.index("<s>"), WORDS.index("</s>")
LENGTH, WIDTH = 7, 5
PLACE = np.linspace(1, 2, LENGTH, dtype=np.float32)
TABLE = np.random.default_rng(0).normal(size=(len(WORDS), WIDTH)).astype(np.float32)


def write_tokenizer(path: Path, **kept: int) -> None:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: at for at, word in enumerate(WORDS)}, "unknown"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    if kept:
        made.enable_truncation(kept["most"])
        made.enable_padding(length=kept["least"])
    made.save(str(path))


def write_graph(path: Path, table: NDArray[Any] = TABLE, ids: str = "input_ids") -> None:
    nodes = [
        helper.make_node("Gather", ["table", ids], ["embedded"]),
        helper.make_node("Mul", ["embedded", "place"], ["placed"]),
        helper.make_node("ReduceSum", ["placed", "places"], ["text_embeds"], keepdims=0),
    ]
    constants = {"table": table, "place": PLACE[:, None], "places": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "text",
        [helper.make_tensor_value_info(ids, TensorProto.INT64, ["batch", LENGTH])],
        [helper.make_tensor_value_info("text_embeds", TensorProto.FLOAT, ["batch", WIDTH])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_graph(tmp_path / "text.onnx")
    write_tokenizer(tmp_path / "tokenizer.json")
    return tmp_path


@pytest.fixture
def encoder(folder: Path) -> TextEncoder:
    return TextEncoder(folder, threads=1)


def ids_of(question: str) -> list[int]:
    return [BOS, *(WORDS.index(word) for word in question.split()), EOS]


def vectors(rows: list[list[int]]) -> NDArray[np.float32]:
    """[M, P], by the formula above."""
    summed: NDArray[np.float32] = (PLACE[:, None] * TABLE[np.array(rows)]).sum(1)
    return summed


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = rows / np.sqrt((rows**2).sum(-1, keepdims=True))
    return scaled


SHORT = "which one is red"
FULL = "which one is the square"
LONG = "which one is red is the square red the square one which"


def test_a_short_question_is_one_row_filled_up_with_zeros(encoder: TextEncoder) -> None:
    row = [BOS, 0, 1, 2, 3, EOS, 0]
    assert encoder.rows(SHORT).tolist() == [row]
    assert encoder.rows(SHORT).dtype == np.int64
    np.testing.assert_allclose(encoder(SHORT), unit(vectors([row]))[0], rtol=1e-6)


def test_one_that_just_fits_is_one_row(encoder: TextEncoder) -> None:
    assert encoder.rows(FULL).tolist() == [[BOS, 0, 1, 2, 4, 5, EOS]]


def test_an_empty_one_is_its_two_ends(encoder: TextEncoder) -> None:
    row = [BOS, EOS, 0, 0, 0, 0, 0]
    assert encoder.rows("").tolist() == [row]
    np.testing.assert_allclose(encoder(""), unit(vectors([row]))[0], rtol=1e-6)


def test_a_long_one_has_its_ends_in_the_first_row_and_the_last(encoder: TextEncoder) -> None:
    ids = ids_of(LONG)
    first, second = ids[:LENGTH], ids[LENGTH:]
    assert (len(ids), first[0], second[-1]) == (14, BOS, EOS)
    assert encoder.rows(LONG).tolist() == [first, second]
    three = f"{LONG} red"
    assert encoder.rows(three).tolist() == [first, [*second[:-1], 3], [EOS, 0, 0, 0, 0, 0, 0]]


def test_its_vector_is_the_mean_of_unit_vectors_which_no_row_outweighs(encoder: TextEncoder) -> None:
    """A patch's mean cosine with the rows is its product with this one vector."""
    ids = ids_of(LONG)
    rows = unit(vectors([ids[:LENGTH], ids[LENGTH:]]))
    np.testing.assert_allclose(encoder(LONG), rows.mean(0), rtol=1e-6)
    patches = unit(np.random.default_rng(1).normal(size=(9, WIDTH)).astype(np.float32))
    np.testing.assert_allclose(patches @ encoder(LONG), (patches @ rows.T).mean(1), atol=1e-6)


def test_truncated_it_is_one_row_that_still_ends(encoder: TextEncoder) -> None:
    row = [*ids_of(LONG)[: LENGTH - 1], EOS]
    assert encoder.rows(LONG, truncated=True).tolist() == [row]
    np.testing.assert_allclose(encoder(LONG, truncated=True), unit(vectors([row]))[0], rtol=1e-6)
    np.testing.assert_allclose(encoder(LONG, truncated=True, unit=False), vectors([row])[0], rtol=1e-6)
    assert encoder.rows(FULL, truncated=True).tolist() == encoder.rows(FULL).tolist()


def test_of_a_list_each_is_what_it_is_alone(encoder: TextEncoder) -> None:
    questions = [SHORT, LONG, ""]
    together = encoder(questions)
    assert together.shape == (3, WIDTH)
    assert together.dtype == np.float32
    assert encoder(tuple(questions)).tolist() == together.tolist()
    assert [encoder(one).tolist() for one in questions] == together.tolist()


def test_sizes_are_those_of_the_graph(encoder: TextEncoder) -> None:
    assert (encoder.length, encoder.width) == (LENGTH, WIDTH)


def test_a_tokenizer_file_has_no_say_in_the_length(folder: Path) -> None:
    write_tokenizer(folder / "tokenizer.json", most=4, least=5)
    encoder = TextEncoder(folder)
    assert encoder.rows("").tolist() == [[BOS, EOS, 0, 0, 0, 0, 0]]
    assert len(encoder.rows(LONG)) == 2


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (7, r"a question must be text \(str\), or a list of such, got int"),
        (None, r"or a list of such, got NoneType"),
        (b"red", r"or a list of such, got bytes"),
        (["red", 7], r"or a list of such, got int"),
        ([["red"]], r"or a list of such, got list"),
        ([], r"must have at least one, got none"),
        ("is it \udcff?", r"must be Unicode text, got '\\udcff' at character 6; leave it out"),
    ],
)
def test_what_is_no_question_is_refused(encoder: TextEncoder, question: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        encoder(question)


@pytest.mark.parametrize("name", ["text.onnx", "tokenizer.json"])
def test_a_file_that_is_missing_or_damaged_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text("{")
    with pytest.raises(BundleError, match=name):
        TextEncoder(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=rf"has no {name}, so it takes no questions; export the bundle again"):
        TextEncoder(folder)


def test_a_graph_of_something_else_is_refused(folder: Path) -> None:
    write_graph(folder / "text.onnx", ids="pixel_values")
    with pytest.raises(BundleError, match=r"must turn input_ids \[M, length\] into text_embeds \[M, width\]"):
        TextEncoder(folder)


@pytest.mark.parametrize("weight", [0, np.nan, np.inf])
def test_a_vector_without_a_direction_is_refused(folder: Path, weight: float) -> None:
    write_graph(folder / "text.onnx", table=np.full_like(TABLE, weight))
    with pytest.raises(BundleError, match="must give vectors that are finite and not zero"):
        TextEncoder(folder)(SHORT)


def test_a_tokenizer_without_ends_is_refused(folder: Path) -> None:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"red": 0}, "red"))
    made.save(str(folder / "tokenizer.json"))
    with pytest.raises(BundleError, match="must write BOS and EOS around a text"):
        TextEncoder(folder)


def test_closed_it_answers_no_more(encoder: TextEncoder) -> None:
    encoder.close()
    with pytest.raises(RequestError, match=r"text\.onnx is closed"):
        encoder(SHORT)


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingPackageError, match=r"needs the package tokenizers, .* 'edgeprune\[generate\]'"):
        TextEncoder(folder)


WITHOUT = """
import sys
absent = ("torch", "transformers", "onnx", "onnx_ir", "safetensors")
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
from edgeprune.runtime.text import TextEncoder
print(TextEncoder(sys.argv[1])(sys.argv[2]).tolist())
"""


def test_it_runs_where_there_is_no_torch(folder: Path, encoder: TextEncoder) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(folder), SHORT], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == (str(encoder(SHORT).tolist()), "")
