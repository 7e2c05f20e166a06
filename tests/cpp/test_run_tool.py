"""edgeprune-run: what Python's runtime gives for the same image, in files that numpy and safetensors read."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from edgeprune.runtime import load
from tests.brightest import LABELS
from tests.covering import always
from tests.cpp.conftest import ROOT

MakeBundle = Callable[..., Path]
BUNDLE = ROOT / "tests" / "golden" / "bundle-0.2"
CLOSE = 1e-5
"""of one ONNX Runtime to itself: its threads may be split otherwise"""


def run(cpp: Path, *words: str | Path, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([cpp / "tools" / "edgeprune-run", *words], input=given, capture_output=True, check=False)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    slope = np.add.outer(np.arange(50), np.arange(70))[..., None] * np.array([1, 2, 1])
    noise = np.random.default_rng(3).integers(0, 60, (50, 70, 3))
    path = tmp_path / "photo.ppm"
    Image.fromarray((slope + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


def python(folder: Path, photo: Path | list[Path], **options: Any) -> dict[str, NDArray[Any]]:
    output = load(folder, device="cpu", **options)(photo)
    return {"tokens": output.tokens, "indices": output.indices, "scores": output.scores}


def test_all_outputs_are_those_of_python(cpp: Path, photo: Path, tmp_path: Path) -> None:
    done = run(cpp, BUNDLE, photo, "--output", tmp_path / "out.safetensors", "--json")
    assert done.returncode == 0, done.stderr
    told, expected, found = json.loads(done.stdout), python(BUNDLE, photo), load_file(tmp_path / "out.safetensors")
    assert set(found) == {"tokens", "indices", "scores", "picks"}
    for name, array in expected.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_allclose(found[name], array, rtol=CLOSE, atol=CLOSE)
        assert told["outputs"][name] == {"dtype": str(array.dtype), "shape": list(array.shape)}
    np.testing.assert_array_equal(told["indices"], expected["indices"])
    assert (told["method"], told["device"], told["keep"], told["runs"]) == ("fastervlm", "cpu", 16, 1)
    assert min(told["open_ms"], told["preprocess_ms"]["median"], told["run_ms"]["p95"]) > 0


def test_the_tokens_of_standard_input_are_an_array_that_numpy_reads(cpp: Path, photo: Path, tmp_path: Path) -> None:
    words = ("--output", tmp_path / "tokens.npy", "--keep", "5", "--repeat", "3", "--threads", "1", "--device", "cpu")
    done = run(cpp, BUNDLE, "-", *words, given=photo.read_bytes())
    assert done.returncode == 0, done.stderr
    expected = python(BUNDLE, photo, keep=5)
    np.testing.assert_allclose(np.load(tmp_path / "tokens.npy"), expected["tokens"], rtol=CLOSE, atol=CLOSE)
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "fastervlm of llava-of-three-layers, encoder.onnx on cpu"
    assert "indices " + " ".join(map(str, expected["indices"][0])) in lines
    assert lines[-2].startswith("open ")
    assert lines[-2].endswith("medians of 3")
    assert lines[-1] == f"wrote {tmp_path}/tokens.npy"


@pytest.mark.parametrize("given", [{"batch": 3}, {"batch": "batch"}, {"dtype": "float16"}, {"dtype": "uint8"}], ids=str)
def test_one_image_comes_out_whatever_the_graph_takes(
    cpp: Path, make_bundle: MakeBundle, photo: Path, tmp_path: Path, given: dict[str, Any]
) -> None:
    """A fixed batch is filled with it, and what comes out is the first one's."""
    bundle = make_bundle(**given)
    assert run(cpp, bundle, photo, "--output", tmp_path / "tokens.npy").returncode == 0
    photos = [photo] * given["batch"] if given.get("batch") == 3 else photo
    expected, found = python(bundle, photos)["tokens"], np.load(tmp_path / "tokens.npy")
    assert (found.shape, found.dtype) == ((1, *expected.shape[1:]), expected.dtype)
    np.testing.assert_allclose(found, expected[:1], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_detector_prints_what_it_found(cpp: Path, tmp_path: Path) -> None:
    from edgeprune.export import Request, export_bundle

    bundle = export_bundle(
        Request(
            "none",
            "cpu",
            model=str(ROOT / "edgeprune" / "models" / "scenes"),
            output=tmp_path / "bundle",
            baselines=False,
        )
    ).folder
    scene = tmp_path / "scene.ppm"
    Image.open(ROOT / "edgeprune" / "models" / "tiny" / "scenes" / "scene00.png").convert("RGB").save(scene)
    done = run(cpp, bundle, scene, "--threshold", "0.1", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["detections"]
    ((scores, labels, boxes),) = load(bundle, device="cpu")(scene, threshold=0.1)
    assert [one["label"] for one in told] == [load(bundle, device="cpu").labels[label] for label in labels]
    np.testing.assert_allclose([one["score"] for one in told], scores, atol=1e-5)
    np.testing.assert_allclose([one["box"] for one in told], boxes, atol=1e-2)
    refused = run(cpp, bundle, scene, "--output", tmp_path / "tokens.npy")
    assert refused.returncode == 2
    assert b"the bundle gives no tokens for a .npy; name a .safetensors" in refused.stderr


def test_a_classifier_prints_what_it_sees(cpp: Path, photo: Path, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(classes=True)
    done = run(cpp, bundle, photo, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["classes"]
    (expected,) = load(bundle, device="cpu")(photo)
    assert [one["label"] for one in told] == [label for label, _ in expected.top()]
    np.testing.assert_allclose([one["probability"] for one in told], [share for _, share in expected.top()], atol=1e-5)
    lines = run(cpp, bundle, photo).stdout.decode().splitlines()
    assert [line for line in lines if line.partition(" ")[2] in LABELS] == [
        f"{share:.3f} {label}" for label, share in expected.top()
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{bundle}", "{photo}", "--output", "x.png"], "--output must end in .npy"),
        (["{bundle}", "{photo}", "--output", "nowhere/x.npy"], "in a folder that is there, nowhere is none; make it"),
        (["{bundle}", "{photo}", "--output", "photo.ppm/x.safetensors"], "a folder that is there, photo.ppm is none"),
        (["{bundle}", "{photo}", "--threshold", "2"], "--threshold must be a number in 0..1, got 2"),
        (["{bundle}", "{photo}", "--threshold", "half"], "--threshold must be a number in 0..1, got half"),
        (["{bundle}", "{photo}", "--repeat", "0"], "--repeat must be a whole number of at least 1"),
        (["{bundle}", "{photo}", "--keep", "99"], "must be a whole one in 1..16, got 99"),
        (["{bundle}", "no.ppm"], "no.ppm cannot be read; name a PPM image, or -"),
        (["{bundle}", "{bundle}"], "cannot be read; name a PPM image, or -"),
        (["{bundle}", "{bundle}/manifest.json"], "manifest.json: "),
        (["{bundle}"], "edgeprune-run takes BUNDLE IMAGE"),
        (["nowhere", "{photo}"], "nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(
    cpp: Path, photo: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    given = [word.format(bundle=BUNDLE, photo=photo) for word in words]
    program = cpp / "tools" / "edgeprune-run"
    done = subprocess.run([program, *given], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["photo.ppm"]
    told = subprocess.run([program, *given, "--json"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert json.loads(told.stderr)["exit_code"] == 2


def test_a_folder_is_no_file_to_write_to(cpp: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "x.npy").mkdir()
    done = run(cpp, BUNDLE, photo, "--output", tmp_path / "x.npy")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--output must be a file, " in done.stderr


@pytest.mark.parametrize("name", ["tokens.npy", "all.safetensors"])
def test_a_disk_that_is_full_is_a_failure_and_leaves_nothing(cpp: Path, photo: Path, tmp_path: Path, name: str) -> None:
    """No file may grow beyond 0 bytes."""
    program: list[str | Path] = [cpp / "tools" / "edgeprune-run", BUNDLE, photo, "--output", tmp_path / name]
    command: list[str | Path] = ["bash", "-c", """trap '' XFSZ; ulimit -f 0; exec "$@" """, "full", *program]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"cannot be written: File too large" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.ppm"]


# --- what a graph is given beside the image ---------------------------------------------------------------------------

PRIOR = {"prior": {"what": "of each patch, what is wanted", "blank": 1.0}}


def written(folder: Path, value: NDArray[Any], raw: bool) -> str:
    """The value of --input, of a file with it."""
    path = folder / ("prior.bin" if raw else "prior.npy")
    path.write_bytes(value.tobytes()) if raw else np.save(path, value)
    return f"prior={path}"


@pytest.mark.parametrize("split", [(), ("--split",)], ids=["whole", "halves"])
@pytest.mark.parametrize(("raw", "shape"), [(False, (24,)), (False, (1, 24)), (False, (3, 24)), (True, (24,))])
@pytest.mark.parametrize("batch", always([3, "images"], "images"))
def test_an_input_comes_from_a_file_as_it_does_in_python(
    cpp: Path,
    make_bundle: MakeBundle,
    photo: Path,
    tmp_path: Path,
    batch: int | str,
    raw: bool,
    shape: tuple[int, ...],
    split: tuple[str, ...],
) -> None:
    """Of every image of the run, or of one, which all are given."""
    if batch == "images" and shape == (3, 24):
        shape = (1, 24)  # an open batch is run with one image
    folder = make_bundle(batch=batch, prior=True, split=True, ports=PRIOR)
    prior = np.random.default_rng(1).random(shape).astype(np.float32)
    words = ("--input", written(tmp_path, prior, raw), "--output", tmp_path / "out.safetensors", "--device", "cpu")
    done = run(cpp, folder, photo, *words, *split, "--json")
    assert done.returncode == 0, done.stderr
    expected = load(folder, device="cpu")([photo] * 3 if batch == 3 else photo, prior=prior)
    found = load_file(tmp_path / "out.safetensors")
    np.testing.assert_array_equal(found["indices"], expected.indices[:1])
    np.testing.assert_allclose(found["tokens"], expected.tokens[:1], rtol=CLOSE, atol=CLOSE)
    told = json.loads(done.stdout)
    assert told["source"] == ("encode.onnx and select.onnx" if split else "encoder.onnx")
    assert ("select_ms" in told, "encode_ms" in told) == (bool(split), bool(split))


def test_what_is_left_out_stands_as_the_manifest_says_and_the_halves_are_timed_apart(
    cpp: Path, make_bundle: MakeBundle, photo: Path
) -> None:
    folder = make_bundle(prior=True, split=True, ports=PRIOR)
    done = run(cpp, folder, photo, "--split", "--repeat", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert "indices " + " ".join(map(str, load(folder, device="cpu")(photo).indices[0])) in lines
    assert lines[-1].startswith("encode ")
    assert "ms (p95 " in lines[-1].partition(", then for each question ")[2]


NUMBERS = np.ones((1, 24), np.float32)


@pytest.mark.parametrize(
    ("value", "raw", "said"),
    [
        (NUMBERS[:, 1:], False, "prior must be float32 [1, 24], got float32 [1, 23]; cast or reshape it"),
        (np.stack([NUMBERS] * 2), False, "prior must be float32 [1, 24], got float32 [2, 1, 24]"),
        (NUMBERS.astype(np.float64), False, "prior must be float32 [1, 24], got float64 [1, 24]"),
        (NUMBERS.astype(">f4"), False, "prior must be float32 [1, 24], got >f4 [1, 24]"),
        (NUMBERS[0, 0], False, "prior must be float32 [1, 24], got float32 []"),
        (np.asfortranarray(np.ones((2, 24), np.float32)), False, "it is not in C order; write it with numpy.save"),
        (NUMBERS[:, 1:], True, "prior must be float32 [1, 24], got 92 bytes"),
        (NUMBERS * np.nan, False, "prior must be finite, 24 of 24 are NaN or infinite"),
        (NUMBERS * np.inf, True, "prior must be finite"),
    ],
)
def test_numbers_that_do_not_fit_are_one_line(
    cpp: Path, make_bundle: MakeBundle, photo: Path, tmp_path: Path, value: NDArray[Any], raw: bool, said: str
) -> None:
    word = written(tmp_path, value, raw)
    done = run(cpp, make_bundle(prior=True, ports=PRIOR), photo, "--input", word, "--output", tmp_path / "t.npy")
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert said in done.stderr.decode()
    assert not (tmp_path / "t.npy").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "prior must be given: of each patch, what is wanted; brightest chooses by it; not given: prior (--input "),
        (("--input", "prior"), "--input must be NAME=FILE, as text=question.npy, got prior"),
        (("--input", "prior="), "--input must be NAME=FILE, as text=question.npy, got prior="),
        (("--input", "prior=a", "--input", "prior=b"), "--input prior must be given once"),
        (("--input", "prior=no.npy"), "no.npy cannot be read; name a .npy, or a file of the numbers' bytes alone"),
        (
            ("--input", "text=photo.ppm"),
            "--input text: the bundle takes no such input beside its image, it takes prior",
        ),
        (("--split",), "holds the encoder as one graph; export it with --split to encode once and ask often"),
        (("--input", "prior=broken.npy"), "broken.npy is no .npy that can be read: it ends in its header"),
    ],
)
def test_what_is_not_given_or_not_there_is_one_line(
    cpp: Path, make_bundle: MakeBundle, photo: Path, words: tuple[str, ...], said: str
) -> None:
    (photo.parent / "broken.npy").write_bytes(b"\x93NUMPY\x01\x00\xff\xff{'descr'")
    bundle = make_bundle(prior=True, ports={"prior": {**PRIOR["prior"], "blank": None}})
    program = cpp / "tools" / "edgeprune-run"
    done = subprocess.run(
        [program, bundle, photo, *words], capture_output=True, text=True, check=False, cwd=photo.parent
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr


@pytest.mark.parametrize("seed", always(range(3), 0))
def test_a_hostile_array_is_one_line_or_numbers(
    cpp: Path, make_bundle: MakeBundle, photo: Path, tmp_path: Path, seed: int
) -> None:
    folder, dice = make_bundle(prior=True, ports=PRIOR), np.random.default_rng(seed)
    np.save(tmp_path / "good.npy", NUMBERS)
    good = (tmp_path / "good.npy").read_bytes()
    for _ in range(15):
        bad = bytearray(good[: int(dice.integers(0, len(good) + 1))])
        for at in dice.integers(0, max(len(bad), 1), 3):
            bad[at : at + 1] = bytes(dice.integers(0, 256, len(bad[at : at + 1]), np.uint8))
        (tmp_path / "bad.npy").write_bytes(bad)
        done = run(cpp, folder, photo, "--input", f"prior={tmp_path}/bad.npy")
        assert done.returncode in (0, 2)
        assert done.returncode == 0 or done.stderr.count(b"\n") == 1
