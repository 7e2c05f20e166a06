"""A reducer asked for as a method: its steps on its paper's schedule, and all that they leave, under its own name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edgeprune import catalog, runtime
from edgeprune.errors import RequestError
from edgeprune.export import Exported, Request, export_bundle
from edgeprune.export.cost import formula
from edgeprune.export.images import images_of
from edgeprune.export.opening import Opened, fits_of, opened
from edgeprune.export.request import output_of, spelled_out
from edgeprune.frozen import flowcut_steps
from edgeprune.reference import OfficialEncoder
from edgeprune.targets import load
from edgeprune.trace import PrunedEncoder
from tests.covering import always

CPU = load("cpu")
PATCHES, LAYERS = 144, 5  # of the embedded model, in front of the features
EVERY = [one.name for one in catalog.reducers()]
OWN = [one.name for one in catalog.reducers() if one.every]


def found(method: str, keep: int | None = 72, **fields: Any) -> Opened:
    return opened(Request(method, "cpu", keep=keep, **fields), CPU)


def steps(one: Opened) -> list[tuple[int, int]]:
    assert one.encoder.inside is not None
    return [(step.layer, step.keep) for step in one.encoder.inside.steps]


@pytest.mark.parametrize("name", ["tome", "zero-tprune", "zero_tprune"])
def test_its_name_is_spelled_out(name: str) -> None:
    own = name.replace("-", "_")
    schedule = "official" if own in OWN else None
    made = spelled_out(Request(name, "cpu", keep=72))
    assert made == Request("none", "cpu", keep=72, inside=own, schedule=schedule, called=own)
    assert spelled_out(made) == made


def test_the_paper_s_schedule_makes_room_for_one_that_was_given() -> None:
    assert spelled_out(Request("tome", "cpu", schedule="2:80")).schedule == "2:80"
    assert spelled_out(Request("tome", "cpu", encoder_cost=0.6)).schedule is None


@pytest.mark.slow
def test_methods_stay_as_they_are_and_the_reducer_beside_one_may_have_a_hyphen() -> None:
    for one in catalog.methods():
        assert spelled_out(Request(one.name, "cpu")) == Request(one.name, "cpu")
    assert spelled_out(Request("divprune", "cpu", inside="zero-tprune")).inside == "zero_tprune"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"keep": 64}, "tiny-tome-64-cpu"),
        ({"encoder_cost": 0.6}, "tiny-tome-cost0.6-cpu"),
        ({"schedule": "1:90,2:60"}, "tiny-tome-60-cpu"),
    ],
)
def test_the_folder_is_named_after_it(fields: dict[str, Any], name: str) -> None:
    assert output_of(spelled_out(Request("tome", "cpu", **fields)), "edgeprune/tiny", CPU) == Path(name)


def test_tome_goes_down_evenly_behind_every_layer_and_all_that_is_left_goes_on() -> None:
    one = found("tome")
    assert steps(one) == [(1, 126), (2, 108), (3, 90), (4, 72)]
    assert (one.method.keep, one.method.rule(72), one.warnings) == (72, {"name": "fixed"}, ())


@pytest.mark.slow
def test_a_correction_for_it_is_one_for_none_with_it_inside() -> None:
    spelled = Request("none", "cpu", keep=72, inside="tome", schedule="official")
    asked = Request("tome", "cpu", keep=72)
    assert fits_of(asked, opened(asked, CPU)) == fits_of(spelled, opened(spelled, CPU))


@pytest.mark.parametrize("name", always([name for name in EVERY if name not in OWN], "sta"))
def test_one_whose_paper_fixes_no_schedule_takes_its_own_depths_and_says_so(name: str) -> None:
    one = found(name)
    taken = steps(one)
    assert taken[-1][1] == one.method.keep == 72
    (warning,) = one.warnings
    assert f"--schedule {','.join(f'{layer}:{keep}' for layer, keep in taken)} was taken" in warning


def test_a_cost_alone_leaves_as_much_as_it_pays_for() -> None:
    one = found("tome", None, encoder_cost=0.6)
    assert one.encoder.inside is not None
    assert one.method.keep == one.encoder.inside.rows
    whole = replace(one.encoder, inside=None)
    share = formula(one.encoder, one.method) / formula(whole, replace(one.method, keep=PATCHES))  # type: ignore[type-var]
    assert 0.59 < share <= 0.6


def test_a_cost_that_leaves_another_number_than_was_asked_for_is_refused() -> None:
    with pytest.raises(RequestError, match=r"--keep must be the \d+ tokens that the last step of --encoder-cost 0.6 l"):
        found("tome", 9, encoder_cost=0.6)


class TestFlowcut:
    """Its counts are taken of images."""

    @pytest.mark.slow
    def test_of_drawn_ones_with_a_warning(self) -> None:
        one = found("flowcut", 64)
        whole = replace(one.encoder, inside=None)
        pixels, _, _ = images_of(None, one.preprocessing)
        wanted = flowcut_steps(whole, pixels, 64)
        assert pixels.shape == (16, 3, 96, 96)
        assert steps(one) == [(step.layer, step.keep) for step in wanted]
        assert one.learned == {"schedule": {"images": 16, "data": "drawn scenes"}}
        assert "counts of flowcut were taken of 16 drawn scenes; --calibrate DIR" in one.warnings[0]
        assert found("flowcut", 64, calibrate="scenes").warnings == ()

    def test_of_a_folder_s(self, tmp_path: Path) -> None:
        folder = tmp_path / "photos"
        folder.mkdir()
        for at in range(3):
            noise = np.random.default_rng(at).integers(0, 256, (50, 70, 3)).astype(np.uint8)
            Image.fromarray(noise).save(folder / f"{at}.png")
        one = found("flowcut", 64, calibrate=str(folder))
        assert one.learned == {"schedule": {"images": 3, "data": "photos"}}
        assert one.warnings == ()

    @pytest.mark.slow
    def test_of_another_method_with_it_inside_likewise(self) -> None:
        one = found("fastervlm", 32, inside="flowcut", schedule="official", calibrate="scenes")
        assert steps(one)[-1] == (4, 32)
        assert one.learned["schedule"]["data"] == "drawn scenes"


@pytest.fixture(scope="module")
def classifier_of(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """36 patches, 4 layers, three classes."""
    made: dict[str, str] = {}

    def make(architecture: str) -> str:
        if architecture not in made:
            labels = {0: "tench", 1: "grey whale", 2: "crane"}
            folder = tmp_path_factory.mktemp("classifier")
            made[architecture] = str(model_folder(folder, architecture, num_labels=3, id2label=labels))
        return made[architecture]

    return make


DINO = "Dinov2ForImageClassification"


@pytest.mark.parametrize("architecture", always(["ViTForImageClassification", DINO], DINO))
@pytest.mark.parametrize("name", always([name for name in EVERY if name in OWN], "tome"))
def test_a_classifier_gives_the_logits_of_the_reference(
    classifier_of: Callable[[str], str], architecture: str, name: str
) -> None:
    one = found(name, 20, model=classifier_of(architecture), head=True)
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        ours, theirs = (kind(one.encoder, one.method).eval()(pixels)[0] for kind in (PrunedEncoder, OfficialEncoder))
    assert ours.shape == (2, 3)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def exported(folder: Path, method: str, **fields: Any) -> Exported:
    request = Request(method, "cpu", head=True, output=folder / "out", baselines=False, runtime=False, **fields)
    return export_bundle(request)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        ("ViTForImageClassification", {"schedule": "1:18"}),  # every even row joins an odd one
        (DINO, {"encoder_cost": 0.6}),
    ],
)
def test_a_classifier_is_exported_with_tome_alone(
    classifier_of: Callable[[str], str], tmp_path: Path, architecture: str, fields: dict[str, Any]
) -> None:
    done = exported(tmp_path, "tome", model=classifier_of(architecture), **fields)
    manifest = done.manifest
    assert (manifest.method, manifest.keep, manifest.kind) == ("tome", manifest.steps[-1][1], "logits")
    assert manifest.inside["reducer"] == "tome"
    assert manifest.cost["formula"] / manifest.cost["unpruned_formula"] <= fields.get("encoder_cost", 1)
    (classes,) = runtime.load(done.folder, "cpu")(Image.new("RGB", (60, 48), (200, 30, 30)))
    assert sum(classes.probabilities) == pytest.approx(1, abs=1e-5)
