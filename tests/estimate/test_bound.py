"""The estimate before the build: counted by hand, and silent about what the target does not say."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeprune import targets
from edgeprune.bundle import File, Manifest, TensorSpec, load
from edgeprune.cli.tables.bound import bound_table
from edgeprune.errors import BundleError
from edgeprune.estimate.bound import TEXT_TOKENS, bound
from edgeprune.estimate.language_model import LanguageModel
from edgeprune.targets import Target

VICUNA_7B = LanguageModel("vicuna", 4096, 32, 32, 32, 128, 11008, 32000, tied=False)
TINY = Path(__file__).parent.parent.parent / "edgeprune" / "models" / "tiny"
COST = {"formula": 178_000_000_000, "unpruned_formula": 194_700_000_000, "graph": 178_400_000_000}
TFLOPS, GB_S = 100.0, 200.0
Done = tuple[int, str, str]


@pytest.fixture
def manifest(make_bundle: Callable[..., Path]) -> Manifest:
    """64 of 576 tokens, as float16, with 600 MB of weights."""
    found = load(make_bundle(dtype="float16", cost=COST, target="jetson-orin")).manifest
    return replace(found, keep=64, grid=(24, 24), files={"encoder.onnx": File(600_000_000, "")})


@pytest.fixture(scope="module")
def target() -> Target:
    """A board with round figures."""
    orin = targets.load("jetson-orin")
    assert orin.gpu is not None
    return replace(orin, gpu=replace(orin.gpu, tflops_fp16=TFLOPS, bandwidth_gb_s=GB_S, memory_gib=16))


def test_the_prompt_has_the_image_tokens_and_some_text(manifest: Manifest, target: Target) -> None:
    found = bound(manifest, VICUNA_7B, target)
    assert TEXT_TOKENS == 64
    assert (found.unpruned.image_tokens, found.pruned.image_tokens, found.floor.image_tokens) == (576, 64, 0)
    assert found.unpruned.prefill == VICUNA_7B.prefill(640)
    assert found.pruned.prefill == VICUNA_7B.prefill(128)
    assert found.pruned.kv_nbytes == 128 * 512 << 10
    assert bound(manifest, VICUNA_7B, target, text_tokens=0).pruned.prefill == VICUNA_7B.prefill(64)


def test_tiles_are_all_in_the_prompt(manifest: Manifest, target: Target) -> None:
    tiled = replace(manifest, tiles=5, preprocessing={**manifest.preprocessing, "tiles": [[336, 672]]})
    for batch, keep in ((5, 64), (1, 320)):  # 64 of each tile, or 320 of one pool of them
        outputs = {"tokens": TensorSpec((batch, keep, 4096), "float16")}
        one = replace(tiled, keep=keep, graphs={"encoder": replace(tiled.encoder, outputs=outputs)})
        found = bound(one, VICUNA_7B, target)
        assert (found.unpruned.image_tokens, found.pruned.image_tokens) == (5 * 576, 320)


def test_a_time_is_that_of_the_products_where_they_take_longer(manifest: Manifest, target: Target) -> None:
    found = bound(manifest, VICUNA_7B, target).unpruned
    assert found.prefill_ms == pytest.approx(1e3 * 2 * 4_198_545_489_920 / 100e12)
    assert found.encoder_ms == pytest.approx(1e3 * 2 * 194_700_000_000 / 100e12)
    assert found.first_token_ms == pytest.approx(83.971 + 3.894, abs=1e-3)


def test_a_time_is_that_of_the_weights_where_reading_them_takes_longer(manifest: Manifest, target: Target) -> None:
    """A short prompt, one token, or a slow memory."""
    found = bound(manifest, VICUNA_7B, target)
    read = 2 * (6_476_005_376 + 32000 * 4096)
    assert found.pruned.prefill_ms == pytest.approx(1e3 * read / 200e9)
    assert found.pruned.decode_ms == pytest.approx(1e3 * (read + 128 * (512 << 10)) / 200e9)
    assert target.gpu is not None
    slow = replace(target, gpu=replace(target.gpu, bandwidth_gb_s=1.0))
    assert bound(manifest, VICUNA_7B, slow).pruned.encoder_ms == pytest.approx(600)


def test_the_ratio_is_that_of_the_times_until_the_first_token(manifest: Manifest, target: Target) -> None:
    found = bound(manifest, VICUNA_7B, target)
    assert found.ratio == pytest.approx((3.56 + 66.071) / (3.894 + 83.971), abs=1e-4)
    assert found.pruned.encoder_share == pytest.approx(3.56 / (3.56 + 66.071), abs=1e-4)
    assert found.floor_ratio == pytest.approx(found.ratio), "reading the weights is what both take"


def test_a_shortened_encoder_is_told_apart_from_the_prefill(manifest: Manifest) -> None:
    plain = bound(manifest, VICUNA_7B, None)
    assert plain.inside == ""
    cost = {"formula": 100_000_000_000, "unpruned_formula": 200_000_000_000}
    found = bound(replace(manifest, cost=cost, inside={"reducer": "tome"}, steps=((8, 64),)), VICUNA_7B, None)
    prefill = VICUNA_7B.prefill(640) - VICUNA_7B.prefill(128)
    assert (found.inside, found.encoder_ratio) == ("tome", 0.5)
    assert found.encoder_saves == pytest.approx(1e11 / (1e11 + prefill))
    said = found.to_json()
    assert said["encoder_saves"] == found.encoder_saves
    assert said["unpruned"]["encoder_share"] == pytest.approx(2e11 / (2e11 + VICUNA_7B.prefill(640)))
    assert bound(replace(manifest, method="received", steps=((8, 64),)), VICUNA_7B, None).inside == "received"


def test_what_saves_in_the_encoder_is_said_in_the_table(manifest: Manifest, target: Target) -> None:
    cost = {"formula": 100_000_000_000, "unpruned_formula": 200_000_000_000}
    one = replace(manifest, cost=cost, inside={"reducer": "tome"}, steps=((8, 64),))
    found = bound(one, VICUNA_7B, target)
    saved = 4.0 - 3.0  # ms; reading the weights takes 3.0, the products of the shortened encoder 2.0
    assert found.encoder_saves == pytest.approx(saved / (saved + 83.971 - 66.071), abs=1e-3)
    assert "tome shortens it to 0.750: 5% of what is saved is saved there" in str(bound_table(found).caption)
    assert "shortens" not in str(bound_table(bound(manifest, VICUNA_7B, target)).caption)


def test_without_figures_the_ratio_is_that_of_the_multiply_adds(manifest: Manifest) -> None:
    found = bound(manifest, VICUNA_7B, targets.load("cpu"))
    assert found.missing == ("[gpu]",)
    assert found.pruned.first_token_ms is found.pruned.decode_ms is found.unpruned.encoder_ms is None
    before, after = 194_700_000_000 + VICUNA_7B.prefill(640), 178_000_000_000 + VICUNA_7B.prefill(128)
    assert found.ratio == pytest.approx(after / before)
    assert found.floor_ratio == pytest.approx((178_000_000_000 + VICUNA_7B.prefill(64)) / before)


def test_every_missing_figure_is_named(manifest: Manifest, target: Target) -> None:
    assert target.gpu is not None
    for field in ("tflops_fp16", "bandwidth_gb_s"):
        without = replace(target, gpu=replace(target.gpu, **{field: None}))  # type: ignore[arg-type]
        found = bound(manifest, VICUNA_7B, without)
        assert found.missing == (f"[gpu] {field}",)
        assert found.unpruned.prefill_ms is None
    assert bound(manifest, VICUNA_7B, None).missing == ("its file",)


def test_float16_figures_say_nothing_of_a_float32_graph(manifest: Manifest, target: Target) -> None:
    wide = replace(manifest, precision="float32")
    assert bound(wide, VICUNA_7B, target).missing == ("a figure for float32 graphs",)
    weak = replace(target, engine=replace(target.engine, typing="weak_fp16"))
    assert bound(wide, VICUNA_7B, weak).missing == ()


def test_a_model_that_does_not_fit_is_told(manifest: Manifest, target: Target) -> None:
    found = bound(manifest, VICUNA_7B, target)
    assert found.weights_gib == pytest.approx(12.55, abs=0.01)
    assert found.fits
    assert not replace(found, memory_gib=8).fits
    assert bound(manifest, VICUNA_7B, targets.load("cpu")).fits, "nothing is known of its memory"


def test_every_target_has_an_estimate(manifest: Manifest) -> None:
    for name in targets.names():
        found = bound(manifest, VICUNA_7B, targets.load(name))
        assert 0 < found.floor_ratio <= found.ratio < 1, name


def test_a_manifest_that_does_not_say_the_cost_is_refused(manifest: Manifest, target: Target) -> None:
    with pytest.raises(BundleError, match="cost must say unpruned_formula, and does not; export the bundle again"):
        bound(replace(manifest, cost={"formula": 1}), VICUNA_7B, target)


def test_it_can_be_written_as_json_and_is_labelled(manifest: Manifest, target: Target) -> None:
    found = json.loads(json.dumps(bound(manifest, VICUNA_7B, target).to_json()))
    assert found["label"] == "estimate"
    assert {"ratio", "floor_ratio", "fits", "missing", "unpruned", "pruned"} <= found.keys()


# On the command line.


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """(arguments) -> exit code, stdout, stderr."""
    import signal

    from edgeprune.cli import main

    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["edgeprune", *map(str, arguments)])
        before = signal.getsignal(signal.SIGTERM)
        try:
            main()
        except SystemExit as exit:
            return (int(exit.code or 0), *capfd.readouterr())
        finally:
            signal.signal(signal.SIGTERM, before)

    return call


def test_bench_prints_it_below_the_ledger(run: Callable[..., Done], make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle(cost=COST)
    code, out, err = run("bench", folder, "--rounds", 1, "--language-model", TINY)
    assert (code, err) == (0, "")
    assert "Benchmark: cpu" in out
    assert "Estimate: tiny behind the encoder, on cpu" in out
    assert "No times: cpu lacks [gpu]." in out
    assert max(map(len, out.splitlines())) <= 80
    code, out, err = run("bench", folder, "--rounds", 1, "--language-model", TINY, "--json")
    assert json.loads(out)["bound"]["language_model"] == "tiny"
    assert "bound" not in json.loads(run("bench", folder, "--rounds", 1, "--json")[1])


def test_times_are_printed_where_the_target_has_figures(
    run: Callable[..., Done], make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    vicuna = tmp_path / "vicuna.json"
    vicuna.write_text(json.dumps({"text_config": {"model_type": "llama", "vocab_size": 32064}}))
    folder = make_bundle(dtype="float16", cost=COST, target="jetson-orin")
    code, out, err = run("bench", folder, "--rounds", 1, "--language-model", vicuna)
    assert (code, err) == (0, "")
    for row in ("encoder, ms", "prefill, ms", "until the first token, ms", "each next token, ms"):
        assert re.search(rf"^ ?{row} +[\d.]+ +[\d.]+ +[\d.]+", out, re.MULTILINE), row
    assert "Times are at the target's peaks" in out
    assert "It does not fit into the 4 GiB of jetson-orin." in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_bundle_for_a_target_of_ones_own_has_no_times(
    run: Callable[..., Done], make_bundle: Callable[..., Path]
) -> None:
    folder = make_bundle(cost=COST, target="mine")
    out = run("bench", folder, "--rounds", 1, "--language-model", TINY)[1]
    assert "No times: mine lacks its file." in out


@pytest.mark.slow
def test_export_prints_it_for_the_target(
    run: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options: list[Any] = ["--method", "fastervlm", "--keep", 9, "--no-baselines", "--target", "jetson-orin"]
    code, out, err = run("export", *options, "--output", "out", "--language-model", TINY)
    assert code == 0, err
    assert "Estimate: tiny behind the encoder, on jetson-orin" in out
    assert re.search(r"^ ?image tokens +144 +9 ", out, re.MULTILINE)
    assert out.splitlines()[-1] == "wrote out"


def test_a_wrong_model_is_refused_before_anything_is_exported(
    run: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("export", "--method", "fastervlm", "--keep", 9, "--language-model", "nowhere")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("edgeprune: --language-model must be a config.json")
    assert list(tmp_path.iterdir()) == []
