"""A run through the C interface gives what Python's runtime gives, bit for bit, for every kind of bundle."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgeprune.runtime import Classes, load
from tests.brightest import KEEP, LABELS, WIDTH, MakeBundle, write_bundle
from tests.covering import always
from tests.cpp.library import CPU, DTYPES, Failure, Library, onnxruntime_library, seal

SIMPLE: dict[str, dict[str, Any]] = {
    "one image": {},
    "batch": {"batch": 3},
    "any batch": {"batch": "images"},
    "float16": {"dtype": "float16"},
    "uint8": {"dtype": "uint8"},
    "picks": {"picks": True},
    "another input": {"prior": True},
    "video": {"video": True},
    "classes": {"classes": True},
    "classes of any batch in float16": {"classes": True, "batch": "images", "dtype": "float16"},
}
EXPORTED: dict[str, tuple[str, dict[str, Any]]] = {
    "embedded": ("", {"method": "fastervlm", "keep": 64}),
    "embedded in float16": ("", {"method": "divprune", "keep": 16, "precision": "float16"}),
    "embedded, raw pixels, any batch": ("", {"method": "fastervlm", "keep": 16, "uint8": True, "dynamic_batch": True}),
    "tiles": ("llava next", {"method": "fastervlm", "keep": 9, "tiles": 3}),
    "positions and DeepStack": ("qwen3 vl", {"method": "divprune", "keep": 6, "grid": "12x12"}),
    "detector": ("yolos", {"method": "none"}),
    "classifier": ("vit classifier", {"method": "uniform", "keep": 12, "head": True, "dynamic_batch": True}),
}


@pytest.fixture(scope="module")
def library(cpp: Path) -> Library:
    return Library(cpp)


def feeds_of(session: Any, batch: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Something for every input: raw pixels, or numbers around 0."""
    random, feeds = np.random.default_rng(seed), {}
    for name, spec in session.inputs.items():
        shape = [size if isinstance(size, int) else batch for size in spec.shape]
        raw = spec.dtype == "uint8"
        values = random.integers(0, 256, shape) if raw else random.normal(size=shape)
        feeds[name] = values.astype(spec.dtype)
    return feeds


def check_same(folder: Path, library: Library, **options: Any) -> None:
    """`options`: of both runtimes."""
    opened = library.open(folder, device=CPU, threads=1, **options)
    with load(folder, device="cpu", threads=1, **options) as python, opened as c:
        for kind, specs in (("input", python.session.inputs), ("output", python.session.outputs)):
            have = c.tensors(kind)
            assert list(have) == list(specs)
            for name, spec in specs.items():
                shape = [size if isinstance(size, int) else 0 for size in spec.shape]
                assert (DTYPES[have[name].dtype], have[name].shape[: have[name].rank]) == (spec.dtype, shape)
        fixed = isinstance(python.session.inputs["pixel_values"].shape[0], int)
        for seed, batch in enumerate((1,) if fixed else (2, 1, 3)):
            feeds = feeds_of(python.session, batch, seed)
            expected, got = python.run(feeds), c.run(feeds)
            for name, value in expected.items():
                assert got[name].dtype == value.dtype
                assert got[name].shape == value.shape
                assert got[name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize("name", SIMPLE)
def test_a_small_graph_gives_the_same_bits(name: str, library: Library, tmp_path: Path) -> None:
    check_same(write_bundle(tmp_path / "bundle", **SIMPLE[name]), library)


@pytest.fixture(scope="module")
def exported(
    model_folder: Callable[..., Path], exported_once: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """(name) -> that export; not to be changed."""
    from edgeprune.export import Request, export_bundle
    from tests.encoders.kinds import declared

    made: dict[str, Path] = {}

    def find(name: str) -> Path:
        if name == "embedded":  # other tests want it, too
            fields = dict(EXPORTED[name][1])
            shared: Path = exported_once(fields.pop("method"), "cpu", **fields).folder
            return shared
        if name not in made:
            kind, fields = EXPORTED[name]
            folder = tmp_path_factory.mktemp("exported")
            given = dict(fields)
            if kind:
                one = declared()[kind]
                given["model"] = str(model_folder(folder / "model", one.architecture, one.processor, **one.config))
            request = Request(given.pop("method"), "cpu", output=folder / "bundle", baselines=False, **given)
            made[name] = export_bundle(request).folder
        return made[name]

    return find


@pytest.mark.parametrize("name", always(EXPORTED, "embedded"))
def test_an_exported_encoder_gives_the_same_bits(name: str, library: Library, exported: Callable[[str], Path]) -> None:
    check_same(exported(name), library)


@pytest.mark.parametrize("batch", [1, 3, "images"])
@pytest.mark.parametrize("rule", ["topk", "greedy"])
@pytest.mark.parametrize("keep", [1, KEEP - 1, KEEP])
def test_fewer_tokens_are_the_first_picks(
    keep: int, rule: str, batch: int | str, library: Library, make_bundle: MakeBundle
) -> None:
    folder = make_bundle(batch=batch, picks=True, nested=True, rule={"name": rule})
    check_same(folder, library, keep=keep)


@pytest.mark.slow
def test_extras_are_cut_with_the_tokens(library: Library, exported: Callable[[str], Path]) -> None:
    """Positions and DeepStack features, in which K is another dimension than in tokens."""
    check_same(exported("positions and DeepStack"), library, keep=4)


def test_any_of_the_outputs_may_be_asked_for(library: Library, make_bundle: MakeBundle) -> None:
    folder = make_bundle(picks=True, nested=True)
    for keep in (0, 2):
        with library.open(folder, keep=keep, threads=1) as c:
            feeds = {"pixel_values": np.random.default_rng(0).normal(size=(1, 3, 32, 48)).astype(np.float32)}
            every = c.run(feeds)
            for names in (["tokens"], ["picks", "scores"], ["scores", "indices"]):
                outputs = c.empty(names=names)
                c.run_into(feeds, outputs)
                assert all(outputs[name].tobytes() == every[name].tobytes() for name in names)


@pytest.mark.parametrize("keep", [0, 2])
def test_a_handle_keeps_what_a_frame_leaves_for_the_next_one(
    keep: int, library: Library, make_bundle: MakeBundle
) -> None:
    """As a stream of Python does; whether the caller asks for it or not, until it says that another video begins."""
    folder = make_bundle(video=True, picks=True, nested=True)
    frames = np.random.default_rng(0).normal(size=(4, 1, 3, 32, 48)).astype(np.float32)
    with load(folder, device="cpu", threads=1, keep=keep or None) as python, library.open(folder, keep=keep) as c:
        video = python.stream()
        for at, frame in enumerate(frames):
            if at == 2:
                c.check(c.raw.edgeprune_first_frame(c.handle))
                video = python.stream()
            expected, outputs = video.outputs(frame), c.empty(names=["tokens", "scores"] if at % 2 else None)
            c.run_into({"pixel_values": frame}, outputs)
            assert all(value.tobytes() == expected[name].tobytes() for name, value in outputs.items())
        given = {"pixel_values": frames[0], "state.1.scores": np.ones((1, 24), np.float32)}
        c.run_into(given, outputs)  # what the caller gives is not kept, nor is what comes of it
        assert outputs["scores"].tobytes() == python.run(given)["scores"].tobytes()
        c.run_into({"pixel_values": frames[1]}, outputs)
        assert outputs["scores"].tobytes() == video.outputs(frames[1])["scores"].tobytes()


@pytest.mark.parametrize("linked", [False, True])
def test_weights_that_lie_beside_the_graph(linked: bool, library: Library, tmp_path: Path) -> None:
    """Files or, as in a Hugging Face cache, links to them."""
    folder = write_bundle(tmp_path / "bundle")
    model = onnx.load(folder / "encoder.onnx")
    data = "encoder.onnx.data"
    onnx.save(model, folder / "encoder.onnx", save_as_external_data=True, location=data, size_threshold=64)  # no shapes
    seal(folder)
    if linked:
        (tmp_path / "blobs").mkdir()
        for name in ("encoder.onnx", "encoder.onnx.data"):
            (folder / name).rename(tmp_path / "blobs" / name)
            (folder / name).symlink_to(Path("..", "blobs", name))
    check_same(folder, library)


def test_new_contents_at_the_same_address_are_read(library: Library, make_bundle: MakeBundle) -> None:
    with library.open(make_bundle(), threads=1) as c:
        feeds = {"pixel_values": np.zeros((1, 3, 32, 48), np.float32)}
        outputs, tokens = c.empty(), []
        for value in (1.0, 2.0, 1.0):
            feeds["pixel_values"][...] = value
            c.run_into(feeds, outputs)
            tokens.append(outputs["tokens"].copy())
        assert not np.array_equal(tokens[0], tokens[1])
        assert np.array_equal(tokens[0], tokens[2])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_classes_are_those_of_python(dtype: str, library: Library, make_bundle: MakeBundle) -> None:
    random = np.random.default_rng(0)
    with library.open(make_bundle(classes=True, dtype=dtype), threads=1) as c:
        assert (c.info().detects, c.info().labels) == (0, WIDTH)
        for logits in (6 * random.standard_normal((20, WIDTH))).astype(dtype):
            wanted = Classes(logits, LABELS)
            for capacity in (0, 1, 5, WIDTH):
                found = c.classify(logits, capacity)
                assert [LABELS[label] for _, label in found] == [label for label, _ in wanted.top(capacity)]
                np.testing.assert_allclose(
                    [share for share, _ in found], [share for _, share in wanted.top(capacity)], rtol=1e-6
                )
        alike = np.zeros(WIDTH, dtype)
        assert [label for _, label in c.classify(alike, WIDTH)] == [*range(WIDTH)]  # the first one comes first
        assert c.classify(alike, WIDTH + 2)[WIDTH:] == [(-1.0, -1)] * 2  # there are no more


def test_classes_of_what_is_none_or_does_not_fit_are_refused(library: Library, make_bundle: MakeBundle) -> None:
    logits = np.zeros(WIDTH, np.float32)
    at, size, count = logits.ctypes.data, logits.nbytes, ctypes.c_size_t()
    tokens, classes = (library.open(make_bundle(classes=one), threads=1) for one in (False, True))
    with tokens, pytest.raises(Failure, match="classes need a bundle of a classifier, this one gives tokens, indices"):
        tokens.classify(logits, 1)
    with classes:
        with pytest.raises(Failure, match="logits must have 28 bytes, got 24"):
            classes.classify(logits[1:], 1)
        with pytest.raises(Failure, match="detections need a bundle of a detector, this one gives logits, indices"):
            classes.check(
                classes.raw.edgeprune_detect(
                    classes.handle, at, size, at, size, 1, 1, 0.5, None, 0, ctypes.byref(count)
                )
            )


def test_the_options_of_a_quantised_bundle_reach_onnx_runtime(
    library: Library, cpp: Path, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the manifest has them for the device."""
    watched = next(cpp.rglob("libwatched_onnxruntime.so"))
    monkeypatch.setenv("WATCHED_ONNXRUNTIME", str(onnxruntime_library()))
    entry = ctypes.CDLL(str(watched)).watched_entry
    entry.restype, entry.argtypes = ctypes.c_char_p, (ctypes.c_char_p,)
    said = {
        "bounds": {"regret": 0.01, "token_median": 0.05, "token_each": 0.15},
        "session": {"cpu": {"disable": ["MatMulAddFusion", "ConstantFolding"]}, "cuda": {"disable": ["Other"]}},
    }
    key = b"optimization.disable_specified_optimizers"
    with library.open(make_bundle(), onnxruntime=bytes(watched)):
        assert entry(key) is None
    with library.open(make_bundle(precision="int8", quantised=said), onnxruntime=bytes(watched)):
        assert entry(key) == b"MatMulAddFusion;ConstantFolding"
