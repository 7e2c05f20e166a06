"""What int8 saves and what its export takes. `make bench`; some fifteen minutes and 6 GiB for this file.

CLIP ViT-L/14-336 with LLaVA-1.5's projector, seeded weights, queries and keys four times as wide, 64 of 576 tokens,
ONNX Runtime on the CPU. Graphs take turns, round by round, with one thread and with two. The export is a process of
its own, as its memory is the machine's; beside its seconds stand those of the unpruned float32 encoder, which the
calibration runs on every image.

With eight channels behind each norm thirty times as large, and as much less of them read, which changes nothing in
float: what is lost in fake quantisation, smoothed and as it is.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgeprune import bundle, targets
from edgeprune.checkpoint import open_checkpoint
from edgeprune.export import Request
from edgeprune.export.opening import opened as opened_checkpoint
from edgeprune.export.quantise.calibration import Calibrator, batch_of, source_of
from edgeprune.export.quantise.products import products_of, quantising
from edgeprune.export.quantise.scheme import Scheme
from edgeprune.export.quantise.smooth import behind_norms, smooth
from edgeprune.export.request import SCENES
from edgeprune.runtime.backends.ort import Session, open_encoder, open_session
from edgeprune.trace import PrunedEncoder, outputs

ROUNDS = 5
WIDER = 4
KEEP = ("--method", "fastervlm", "--keep", "64", "--no-runtime")
INSIDE = ("--inside", "tome", "--encoder-cost", "0.554", "--no-baselines")
MINUTES, GIB = 5, 6
CHANNELS, TIMES, FEW = 8, 30, 4
DOTS = bool({"avx512_vnni", "avx_vnni", "asimddp"} & set(Path("/proc/cpuinfo").read_text().split()))
"""whether this CPU adds four products of 8 bits in one instruction; AVX2 alone takes three, which is twice the rate of
float32 at best, so that the limits are others there"""


@pytest.fixture(scope="module")
def model(llava_7b_folder: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = llava_7b_folder(tmp_path_factory.mktemp("llava-7b") / "model")
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    wider = {
        name: WIDER * value for name, value in tensors.items() if name.endswith(("q_proj.weight", "k_proj.weight"))
    }
    save_file({**tensors, **wider}, path, {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def export(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, float, float]]:
    """(options) -> the bundle, seconds, and GiB of the largest export so far."""

    def run(*options: str) -> tuple[Path, float, float]:
        output, start = tmp_path_factory.mktemp("bundles") / "bundle", time.perf_counter()
        words = ("export", "--model", str(model), "--output", str(output), *KEEP, *options)
        subprocess.run([sys.executable, "-m", "edgeprune", *words], check=True)
        return output, time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20

    return run


def test_int8_is_a_third_of_the_time_and_a_quarter_of_the_size(
    export: Callable[..., tuple[Path, float, float]], hold: Callable[..., None]
) -> None:
    int8, seconds, gib = export("--precision", "int8", "--calibration-images", "64", "--no-baselines")
    print(f"export with 64 images: {seconds:.0f} s, {gib:.1f} GiB; at most {60 * MINUTES} s and {GIB} GiB were wanted")
    print(json.dumps(worst_of(int8)))
    shortened, _, _ = export("--precision", "int8", *INSIDE)
    float32, _, _ = export()
    whole = bundle.load(float32).baselines["unpruned"]
    for threads in (1, 2):
        took = seconds_of(open_session(whole, threads=threads))
        print(f"unpruned float32, {threads} threads: {took:.2f} s; the export took {seconds / took:.0f} of it")
    hold("int8 / float32 in bytes", [nbytes(int8) / nbytes(float32)], most=0.27)
    print(f"products of 8 bits in one instruction: {DOTS}")
    for threads in (1, 2):
        pruned, unpruned = opened(float32, threads), open_session(whole, threads=threads)
        ratios = in_turns(opened(int8, threads), pruned), in_turns(opened(shortened, threads), unpruned)
        hold(f"int8 / float32, {threads} threads", ratios[0], most=0.38 if DOTS else 0.65)
        hold(f"int8 inside / unpruned float32, {threads} threads", ratios[1], most=0.24 if DOTS else 0.38)


def test_eight_channels_thirty_times_as_large_lose_a_hundredth_of_what_is_kept_once_smoothed(
    model: Path, hold: Callable[..., None]
) -> None:
    request = Request("fastervlm", "jetson-orin", keep=64, model=str(model))
    loaded = opened_checkpoint(request, targets.load(request.target), open_checkpoint(request.model))
    module = PrunedEncoder(loaded.encoder, loaded.method).eval()
    products = products_of(module, loaded.encoder)
    source = source_of(SCENES, FEW, {}, loaded.encoder.tower.image_size)
    scheme = Scheme("int8", "s8", "float32")
    with behind_norms(module, products) as norms, torch.inference_mode():
        module(batch_of(source, loaded.preprocessing, 1, 0)[0])
    generator = torch.Generator().manual_seed(0)
    for norm in dict.fromkeys(norms.values()):
        readers = [products[name].weight.data for name, one in norms.items() if one == norm]
        channels = torch.randperm(readers[0].shape[1], generator=generator)[:CHANNELS]
        for value in module.get_submodule(norm).parameters(recurse=False):
            value.data[channels] *= TIMES
        for weight in readers:
            weight[:, channels] /= TIMES

    def lost(smoothed: bool) -> tuple[float, float]:
        calibrator = Calibrator(module, products, source, loaded.preprocessing, 1)
        calibrator.run("ranges")
        if smoothed:
            calibrator.again("ranges", smooth(module, products, norms, calibrator.calibration().largest))
        ranges, regrets, errors = calibrator.calibration(scheme.percentile).ranges, [], []
        for at in range(FEW):
            pixels, _ = batch_of(source, loaded.preprocessing, 1, at)
            with torch.inference_mode():
                wanted = named(module(pixels))
                with quantising(products, products, ranges, scheme):
                    got = named(module(pixels))
            scores, best = wanted["scores"][0], wanted["scores"][0].topk(64).values.sum()
            regrets.append(float((best - scores[got["indices"][0].long()].sum()) / best))
            errors.append(of_tokens(wanted, got))
        return max(regrets), max(errors)

    def named(results: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(outputs(loaded.encoder, loaded.method), results, strict=True))

    (regret, error), (smoothed_regret, smoothed_error) = lost(False), lost(True)
    hold("token error, as it is", [error], least=0.08)
    hold("token error, smoothed", [smoothed_error], most=0.05)
    hold("lost of what is kept, as it is", [regret])
    hold("lost of what is kept, smoothed", [smoothed_regret], most=0.01)


def of_tokens(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> float:
    """How far off the tokens are that both kept, relative, in the median."""
    same = wanted["indices"][0][:, None] == got["indices"][0]
    mine, theirs = same.nonzero(as_tuple=True)
    ours, its = wanted["tokens"][0][mine], got["tokens"][0][theirs]
    return float(((its - ours).norm(dim=1) / ours.norm(dim=1)).median())


def worst_of(folder: Path) -> Mapping[str, Any]:
    """What `verify` makes of it."""
    words = [sys.executable, "-m", "edgeprune", "verify", str(folder), "--device", "cpu", "--json"]
    reports = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    (report,) = reports if isinstance(reports, list) else reports["backends"]
    return {name: report["worst"][name] for name in ("lost", "token_median", "token_error", "decided", "wrong")}


def nbytes(folder: Path) -> int:
    files = bundle.load(folder).manifest.files
    return sum(file.size for name, file in files.items() if name.startswith("encoder.onnx"))


def opened(folder: Path, threads: int) -> Session:
    return open_encoder(bundle.load(folder), threads=threads)


def seconds_of(session: Session) -> float:
    """Of a run, in the median."""
    pixels, took = np.zeros((1, 3, 336, 336), np.float32), []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        session.run({"pixel_values": pixels})
        took.append(time.perf_counter() - start)
    return float(np.median(took))


def in_turns(first: Session, second: Session) -> list[float]:
    """The time of the first over that of the second, of each round."""
    pixels = np.random.default_rng(0).standard_normal((1, 3, 336, 336), dtype=np.float32)
    ratios = []
    for at in range(ROUNDS + 1):
        took = []
        for session in (first, second):
            start = time.perf_counter()
            session.run({"pixel_values": pixels})
            took.append(time.perf_counter() - start)
        if at:  # the first run finds its memory
            ratios.append(took[0] / took[1])
    return ratios
