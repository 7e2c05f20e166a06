"""Judging a detector over the patches kept: COCO's figures, the rules, the graphs, and both verbs from end to end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from rich.console import Console

from edgeprune import encoders
from edgeprune.cli.bavit.eval import command as eval_verb
from edgeprune.cli.bavit.finetune import command as finetune_verb
from edgeprune.errors import MethodError, RequestError
from edgeprune.fit import build_method
from edgeprune.probes.drawn import CLASSES, Scenes
from edgeprune.pruners import received
from edgeprune.pruners._scorer import Scorer, ScorerConfig
from edgeprune.pruners._select import top_in_order
from edgeprune.quality import chart
from edgeprune.quality.evaluate import DENSE, SHARES, VARIANTS, Evaluation, Row, evaluate, oracle_scores
from edgeprune.quality.labels import patch_labels
from edgeprune.quality.peak import peak_nbytes
from edgeprune.quality.precision import Boxes, Truth
from edgeprune.quality.sparse import open_sparse
from edgeprune.quality.speed import measure_speed
from edgeprune.trace import PrunedEncoder
from edgeprune.train.finetune import IMAGES

SCENES = Scenes(12, seed=1)
ALL = [SCENES[at] for at in range(len(SCENES))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model_folder: Callable[..., Path]) -> Path:
    """A tiny YOLOS for drawn scenes, with positions between its layers."""
    processor = {"image_processor_type": "YolosImageProcessor", "size": {"height": 80, "width": 80}, "do_pad": False}
    return model_folder(
        tmp_path_factory.mktemp("yolos") / "tiny",
        "YolosForObjectDetection",
        processor,
        image_size=[80, 80],
        patch_size=8,
        num_hidden_layers=2,
        num_detection_tokens=6,
        use_mid_position_embeddings=True,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: at for at, name in enumerate(CLASSES)},
    )


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    """Of random weights."""
    torch.manual_seed(0)
    return Scorer(ScorerConfig("front", 1, 32, 2, 32, 8, (10, 10), (0.5,) * 3, (0.5,) * 3)).eval()


def exact(scores: float = 0.9, shift: float = 0.0) -> list[Boxes]:
    """Detections of what is there, moved to the right by so many pixels."""
    found = []
    for one in ALL:
        boxes = one.boxes + np.array([shift, 0, shift, 0], np.float32)
        rest = np.stack([np.full(len(boxes), scores), one.labels], axis=1)
        found.append(np.concatenate([boxes, rest], axis=1).astype(np.float32))
    return found


def none() -> list[Boxes]:
    return [np.zeros((0, 6), np.float32) for _ in ALL]


def coco_file(folder: Path) -> dict[str, Any]:
    """The scenes as PNG, and COCO's JSON with ids from 100 and categories from 7, backwards."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for at, one in enumerate(ALL):
        Image.fromarray(one.image).save(folder / f"{at}.png")
        images.append({"id": 100 + at, "file_name": f"{at}.png", "height": 80, "width": 80})
        for (x0, y0, x1, y1), label in zip(one.boxes.tolist(), one.labels.tolist(), strict=True):
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": 100 + at, "category_id": 10 - label, **box})
    categories = [{"id": 10 - at, "name": name} for at, name in enumerate(CLASSES)]
    content: dict[str, Any] = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return content


def test_perfect_detections_have_all_of_the_precision_and_none_have_none() -> None:
    truth = Truth.of_samples(ALL, CLASSES)
    assert truth.average_precision(exact(), CLASSES) == pytest.approx({"mAP": 100, "mAP50": 100, "mAP75": 100})
    assert truth.average_precision(none(), CLASSES) == {"mAP": 0, "mAP50": 0, "mAP75": 0}
    assert truth.average_precision([*exact()[:6], *none()[6:]], CLASSES)["mAP"] < 90


def test_precision_needs_the_place_and_the_class() -> None:
    truth = Truth.of_samples(ALL, CLASSES)
    near = truth.average_precision(exact(shift=4), CLASSES)
    assert near["mAP50"] > near["mAP"] > near["mAP75"]
    assert truth.average_precision(exact(), [*CLASSES[1:], CLASSES[0]])["mAP"] < 10


def test_a_coco_file_is_judged_by_its_own_ids_and_names(tmp_path: Path) -> None:
    truth = Truth.of_file(coco_file(tmp_path), tmp_path, [tmp_path / f"{at}.png" for at in range(len(ALL))])
    assert truth.average_precision(exact(), CLASSES)["mAP"] == pytest.approx(100)
    backwards = Truth.of_file(coco_file(tmp_path), tmp_path, [tmp_path / f"{at}.png" for at in (3, 1)])
    assert backwards.average_precision([exact()[3], exact()[1]], CLASSES)["mAP"] == pytest.approx(100)
    others = ("hexagon", "star")
    with pytest.raises(RequestError, match=r"which are .*circle.*; it has hexagon, star"):
        truth.average_precision(exact(), others)


def test_a_coco_file_may_leave_out_areas_and_have_empty_boxes(tmp_path: Path) -> None:
    content, paths = coco_file(tmp_path), [tmp_path / f"{at}.png" for at in range(len(ALL))]
    for number, one in enumerate(content["annotations"]):
        del one["area"], one["iscrowd"]
        one["id"] = number
    content["annotations"].append({"id": 0, "image_id": 100, "category_id": 10, "bbox": [9, 9, -4, 5]})
    assert Truth.of_file(content, tmp_path, paths).average_precision(exact(), CLASSES)["mAP"] == pytest.approx(100)


def test_images_without_an_object_are_refused() -> None:
    empty = dataclasses.replace(ALL[0], boxes=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int64))
    with pytest.raises(RequestError, match="must have objects"):
        Truth.of_samples([empty], CLASSES)


def test_what_is_found_in_a_crowd_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    content = coco_file(tmp_path)
    whole = {"bbox": [0, 0, 80, 80], "area": 6400, "iscrowd": 1, "segmentation": [[0, 0, 80, 0, 80, 80, 0, 80]]}
    crowd = [{"id": 900 + at, "image_id": 100 + at, "category_id": 10, **whole} for at in range(len(ALL))]
    extra = np.array([[30, 30, 50, 50, 0.99, 0]], np.float32)
    found = [np.concatenate([one, extra]) for one in exact()]
    paths = [tmp_path / f"{at}.png" for at in range(len(ALL))]
    plain = Truth.of_file(content, tmp_path, paths).average_precision(found, CLASSES)["mAP"]
    content["annotations"] += crowd
    assert plain < Truth.of_file(content, tmp_path, paths).average_precision(found, CLASSES)["mAP"]


def test_the_oracle_keeps_the_patches_under_boxes_first() -> None:
    covered = torch.from_numpy(
        np.stack([patch_labels(dataclasses.replace(one, masks=None), (80, 80), 8) for one in ALL])
    ).flatten(1)
    scores = torch.randn(covered.shape, generator=torch.Generator().manual_seed(0))
    for keep in (10, 40, 75):
        kept = covered.gather(1, top_in_order(oracle_scores(scores, covered), keep))
        assert torch.equal(kept.sum(1), covered.sum(1).clamp(max=keep))
    few = top_in_order(oracle_scores(scores, covered), 5)
    best = scores.masked_fill(~covered, -torch.inf).topk(5, dim=1).indices.sort(dim=1).values
    assert torch.equal(few, best)


@pytest.mark.parametrize("spread", [False, True])
def test_the_detector_that_is_judged_is_the_one_that_is_exported(folder: Path, scorer: Scorer, spread: bool) -> None:
    detector = open_sparse(folder, scorer)
    encoder = encoders.load(detector.checkpoint)
    pixels = torch.randn(2, 3, 80, 80)
    with torch.no_grad():
        exported = PrunedEncoder(encoder, dataclasses.replace(detector.method, keep=60, spread=spread))(pixels)
        judged = detector(pixels, lambda patches: detector.select(pixels, patches, 60, spread).indices)
    torch.testing.assert_close(judged.logits, exported[0])
    torch.testing.assert_close(judged.pred_boxes, exported[1])


def test_an_evaluation_has_every_rule_at_every_share(folder: Path, scorer: Scorer) -> None:
    detectors = {name: open_sparse(folder, scorer) for name in ("as it is", "fine-tuned")}
    rows = evaluate(detectors, SCENES)
    assert {(row.model, row.variant, row.share) for row in rows} == {
        (model, variant, share)
        for model in detectors
        for variant, share in [(DENSE, 1.0), *((variant, share) for variant in VARIANTS for share in SHARES)]
    }
    assert {row.keep for row in rows} == {100, 75, 60, 50, 40, 30}
    half = len(rows) // 2
    first, second = (
        [dataclasses.replace(row, model="") for row in sorted(rows, key=lambda row: row.model)][at:][:half]
        for at in (0, half)
    )
    assert first == second  # the same detector twice, on the same random patches


@pytest.mark.slow
def test_the_untrained_method_is_judged_as_it_is_exported(folder: Path, scorer: Scorer) -> None:
    detector = open_sparse(folder, scorer)
    encoder, pixels = encoders.load(detector.checkpoint), torch.randn(2, 3, 80, 80)
    method = build_method(received.Method, "received", encoder, 60, {"layer": "1"})
    with torch.no_grad():
        exported, judged = PrunedEncoder(encoder, method)(pixels), detector.received(pixels, 60, 1)
    torch.testing.assert_close((judged.logits, judged.pred_boxes), exported[:2])
    rows = evaluate({"as it is": detector}, SCENES, shares=[0.5], received=[1])
    assert [row.variant for row in rows] == [DENSE, *VARIANTS, "received 1"]
    with pytest.raises(MethodError, match=r"option layer of received must be in 1\.\.1, got 2"):
        evaluate({"as it is": detector}, SCENES, received=[2])


def test_all_patches_by_any_rule_are_the_dense_detector(folder: Path, scorer: Scorer) -> None:
    rows = evaluate({"as it is": open_sparse(folder, scorer)}, SCENES, shares=[1.0], received=[1])
    assert len({dataclasses.replace(row, variant="") for row in rows}) == 1


def test_shares_outside_of_the_patches_are_refused(folder: Path, scorer: Scorer) -> None:
    with pytest.raises(RequestError, match=r"--shares must be in \(0, 1\], got 1.5"):
        evaluate({"as it is": open_sparse(folder, scorer)}, SCENES, shares=[0.5, 1.5])


@pytest.fixture(scope="module")
def evaluation(folder: Path, scorer: Scorer) -> Evaluation:
    detector = open_sparse(folder, scorer)
    rows = [Row(model, DENSE, 1.0, 100, 71.5, 90, 80) for model in ("as it is", "control")]
    for number, row in enumerate(list(rows)):
        for at, variant in enumerate(VARIANTS):
            rows.append(Row(row.model, variant, 0.5, 50, 30 + 10 * number - 10 * at, 0, 0))
    speed = measure_speed(detector, [0.5], threads=1, rounds=3)
    return Evaluation(tuple(rows), speed, 12, 100, {"data": "drawn scenes", "threads": 1})


@pytest.mark.slow
def test_graphs_that_keep_fewer_patches_multiply_less(evaluation: Evaluation, folder: Path, scorer: Scorer) -> None:
    whole, half = evaluation.speed
    assert (whole.keep, half.keep) == (100, 50)
    scored = open_sparse(folder, scorer).method.multiply_adds(100)
    assert whole.multiply_adds > 1.5 * (half.multiply_adds - scored)
    assert whole.ratio == 1
    assert half.ratio == pytest.approx(whole.median_ms / half.median_ms)
    assert half.images_per_s == pytest.approx(1e3 / half.median_ms)


@pytest.mark.slow
def test_memory_is_that_of_a_process_with_the_graph_alone(evaluation: Evaluation) -> None:
    peaks = [one.peak_mib for one in evaluation.speed]
    assert min(peaks) > 20  # Python and ONNX Runtime
    assert max(peaks) < peak_nbytes() / (1 << 20)  # without torch, which is here


def test_the_table_has_every_figure(evaluation: Evaluation) -> None:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(chart.table(evaluation))
    text = console.export_text()
    for row in evaluation.rows:
        assert f"{row.mAP:.1f}" in text
    for name in ("as it is", "control", "classifier", "oracle boxes", "random", "images/s", "times as fast"):
        assert name in text
    assert "as it is: classifier loses +41.5 against 71.5" in text
    assert "as it is: classifier, spread loses +51.5 against 71.5" in text
    assert f"{evaluation.speed[1].ratio:.2f}" in text


def test_the_plot_is_an_image_and_the_file_has_it_all(evaluation: Evaluation, tmp_path: Path) -> None:
    chart.plot(evaluation, tmp_path / "eval.png")
    with Image.open(tmp_path / "eval.png") as image:
        assert image.size == (960, 600)
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 50
    evaluation.save(tmp_path / "eval.json")
    read = json.loads((tmp_path / "eval.json").read_text())
    assert [Row(**row) for row in read["rows"]] == list(evaluation.rows)


def call(verb: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(verb, [*map(str, arguments)], standalone_mode=False)


@pytest.mark.slow
def test_both_verbs_from_scenes_to_the_table(
    folder: Path, scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without folders given, each verb finds what the one before it wrote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edgeprune.quality.sparse.default_detector", lambda: folder)
    Path("bavit-scorer").mkdir()
    scorer.save(Path("bavit-scorer/scorer.safetensors"))
    quick = ("--scenes", 16, "--epochs", 1, "--batch", 8, "--keep", 0.5, 0.9, "--threads", 1)
    done = call(finetune_verb, *quick, "--control")
    assert done.exception is None, done.output
    assert "wrote bavit-detector-control after" in done.stdout
    record = json.loads(Path("bavit-detector/finetune.json").read_text())
    assert (record["keep"], record["steps"], record["data"]) == ([0.5, 0.9], 2, "16 drawn scenes of seed 0")
    judged = ("--shares", "0.5", "--received", 1, "--limit", 4, "--no-speed", "--threads", 1)
    done = call(eval_verb, *judged)
    assert done.exception is None, done.output
    assert "oracle boxes, spread" in done.stdout
    assert "received 1" in done.stdout
    read = json.loads(Path("bavit-eval/eval.json").read_text())
    assert [row["model"] for row in read["rows"] if row["variant"] == DENSE] == ["as it is", "fine-tuned", "control"]
    assert (read["images"], read["about"]["data"]) == (4, "drawn scenes of seed 1")
    assert Path("bavit-eval/eval.png").is_file()
    again = call(eval_verb, *judged).exception
    assert isinstance(again, RequestError)
    assert "--force" in str(again)


@pytest.mark.slow
def test_images_of_a_coco_file_are_judged_against_the_file(folder: Path, scorer: Scorer, tmp_path: Path) -> None:
    scorer.save(tmp_path / "scorer.safetensors")
    coco_file(tmp_path)
    given = ("--scorer", tmp_path, "--model", folder, "--coco", tmp_path / "instances.json", "--images", tmp_path)
    judged = ("--shares", "0.5", "--no-speed", "--json", "--output")
    done = call(eval_verb, *given, "--whole", *judged, tmp_path / "whole")
    assert done.exception is None, done.output
    found = json.loads(done.stdout)
    assert found["images"] == 12
    assert found["about"]["data"].startswith("instances.json ")
    expected = evaluate({"as it is": open_sparse(folder, scorer)}, Scenes(12, seed=1), shares=[0.5])
    assert [row["mAP"] for row in found["rows"]] == pytest.approx([row.mAP for row in expected])
    assert json.loads(call(eval_verb, *given, *judged, tmp_path / "tenth").stdout)["images"] == 1


def test_images_of_a_coco_file_are_fine_tuned_on(folder: Path, scorer: Scorer, tmp_path: Path) -> None:
    scorer.save(tmp_path / "scorer.safetensors")
    coco_file(tmp_path)
    given = ("--scorer", tmp_path, "--model", folder, "--coco", tmp_path / "instances.json", "--images", tmp_path)
    quick = ("--size", "64x96", "--epochs", 1, "--batch", 4, "--threads", 1, "--json", "--output")
    done = call(finetune_verb, *given, *quick, tmp_path / "detector")
    assert done.exception is None, done.output
    (record,) = json.loads(done.stdout).values()
    assert (record["images"], record["steps"], record["size"]) == (11, 2, [64, 96])  # a tenth is held out
    assert record["data"].startswith("coco instances.json ")
    assert record["lr"] == IMAGES.lr


@pytest.mark.slow
def test_scenes_that_were_trained_on_are_no_test(folder: Path, scorer: Scorer, tmp_path: Path) -> None:
    scorer.save(tmp_path / "scorer.safetensors")
    given = ("--scorer", tmp_path, "--model", folder, "--scenes", 8)
    call(finetune_verb, *given, "--epochs", 1, "--batch", 8, "--seed", 1, "--output", tmp_path / "detector")
    judged = ("--finetuned", tmp_path / "detector", "--shares", "0.5", "--limit", 8, "--no-speed")
    done = call(eval_verb, *given, *judged, "--output", tmp_path / "judged")
    assert done.exception is None, done.output
    assert "was trained on 8 drawn scenes of seed 1, and is judged on them" in done.stderr


def test_a_fine_tuning_that_is_not_finished_is_not_judged(folder: Path, scorer: Scorer, tmp_path: Path) -> None:
    scorer.save(tmp_path / "scorer.safetensors")
    given = ("--scorer", tmp_path, "--model", folder, "--finetuned", tmp_path, "--output", tmp_path / "judged")
    error = call(eval_verb, *given).exception
    assert isinstance(error, RequestError)
    assert "finish it with --resume" in str(error)
    assert not (tmp_path / "judged").exists()


@pytest.mark.slow
def test_patches_under_boxes_beat_random_ones_and_an_even_rest_any_other_on_the_detector_that_comes_along(
    scorer: Scorer,
) -> None:
    rows = evaluate({"as it is": open_sparse(None, scorer)}, Scenes(60, seed=1), shares=[0.6])
    precision = {row.variant: row.mAP for row in rows}
    assert precision[DENSE] > precision["oracle"] > precision["random"] + 5
    assert precision["oracle, spread"] > precision["oracle"]
