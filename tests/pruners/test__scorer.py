"""The file of a scorer, and the scorer brought to another grid, other pixels and another precision."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgeprune.errors import ModelError
from edgeprune.pruners._scorer import METADATA, Scorer, ScorerConfig, load_scorer

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
FRONT = ScorerConfig("front", 2, 16, 2, 32, 8, (3, 4), MEAN, STD, {"mean": 0.3, "p90": 0.55})
TRUNK = replace(FRONT, kind="trunk", layers=3, width=24)
COARSE = replace(FRONT, kind="coarse", patch_size=16)


def seeded(config: ScorerConfig) -> Scorer:
    torch.manual_seed(0)
    scorer = Scorer(config).eval().requires_grad_(False)
    for parameter in scorer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return scorer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    seeded(FRONT).save(tmp_path / "scorer.safetensors")
    return tmp_path / "scorer.safetensors"


@pytest.mark.parametrize("config", [FRONT, COARSE, TRUNK], ids=lambda config: config.kind)
def test_what_is_saved_is_loaded_bit_for_bit(config: ScorerConfig, tmp_path: Path) -> None:
    before = seeded(config)
    before.save(tmp_path / "a.safetensors")
    after = load_scorer(tmp_path / "a.safetensors")
    assert after.config == config
    assert after.digest == before.digest
    assert {name: value.shape for name, value in after.state_dict().items()} == {
        name: value.shape for name, value in before.state_dict().items()
    }
    given = torch.randn(2, 3, 24, 32) if config.kind == "front" else torch.randn(2, 12, 24)
    if config.kind != "coarse":
        assert torch.equal(after(given), before(given))


def test_a_loaded_scorer_is_ready_to_run(saved: Path) -> None:
    scorer = load_scorer(saved)
    assert not scorer.training
    assert not any(parameter.requires_grad for parameter in scorer.parameters())


def test_the_digest_tells_scorers_apart_by_a_single_weight() -> None:
    one, other = seeded(FRONT), seeded(FRONT)
    assert one.digest == other.digest
    other.head.bias.data[1] += 1e-6
    assert one.digest != other.digest


def test_it_gives_two_float32_logits_for_every_patch_in_raster_order() -> None:
    scorer, pixels = seeded(replace(FRONT, layers=0)), torch.randn(2, 3, 24, 32)
    scorer.positions.data.zero_()  # of a layerless scorer without positions, a patch is scored by itself alone
    logits = scorer(pixels)
    assert (logits.shape, logits.dtype) == ((2, 12, 2), torch.float32)
    pixels[:, :, 8:16, 16:24] += 1
    changed = (scorer(pixels) - logits).abs().amax(dim=(0, 2)) > 0
    assert changed.nonzero().flatten().tolist() == [6]


def test_fitted_to_its_own_grid_and_pixels_it_is_the_same() -> None:
    scorer, pixels = seeded(FRONT), torch.randn(2, 3, 24, 32)
    torch.testing.assert_close(scorer.fitted((3, 4), MEAN, STD)(pixels), scorer(pixels), rtol=1e-6, atol=1e-6)


def normalised(image: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def test_fitted_to_other_pixels_it_says_the_same_of_the_same_image() -> None:
    scorer, image = seeded(FRONT), torch.rand(2, 3, 24, 32)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs, ours = normalised(image, MEAN, STD), normalised(image, mean, std)
    expected = scorer(theirs)
    torch.testing.assert_close(scorer.fitted((3, 4), mean, std)(ours), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scorer(ours), expected, atol=1e-2)


def test_fitted_to_another_grid_its_positions_are_resampled_as_detectors_do() -> None:
    scorer = seeded(FRONT)
    fitted = scorer.fitted((5, 6), MEAN, STD)
    table = scorer.positions.reshape(3, 4, 16).permute(2, 0, 1)[None]
    expected = nn.functional.interpolate(table, size=(5, 6), mode="bicubic", align_corners=False)
    assert torch.equal(fitted.positions, expected.flatten(2).transpose(1, 2))
    assert fitted.config.grid == (5, 6)
    assert fitted(torch.randn(1, 3, 40, 48)).shape == (1, 30, 2)


def test_fitting_leaves_the_original_as_it_is() -> None:
    scorer = seeded(FRONT)
    before = scorer.digest
    fitted = scorer.fitted((3, 4), (0.5,) * 3, (0.5,) * 3)
    fitted.head.bias.data.zero_()
    assert scorer.digest == before
    assert scorer.config == FRONT


def test_in_half_precision_the_head_stays_float32() -> None:
    scorer = seeded(FRONT).half()
    kinds = {name.split(".")[0]: value.dtype for name, value in scorer.state_dict().items()}
    assert kinds.pop("head") == torch.float32
    assert set(kinds.values()) == {torch.float16}
    logits = scorer(torch.randn(1, 3, 24, 32).half())
    assert logits.dtype == torch.float32
    rounded = logits.half().float()
    assert not torch.equal(logits, rounded)


def test_a_scorer_in_half_precision_is_saved_in_float32(tmp_path: Path) -> None:
    seeded(FRONT).half().save(tmp_path / "a.safetensors")
    assert {value.dtype for value in load_file(tmp_path / "a.safetensors").values()} == {torch.float32}


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as error:
        load_scorer(path)
    said = str(error.value)
    assert "\n" not in said
    assert len(said) < 400
    assert "edgeprune bavit train" in said
    return said


def rewritten(change: Callable[[dict[str, object], dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        config: dict[str, object] = json.loads(config_of(path))
        tensors = load_file(path)
        change(config, tensors)
        save_file(tensors, path, metadata={METADATA: json.dumps(config)})

    return write


def config_of(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return str(file.metadata()[METADATA])


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def foreign(path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, path)


def without_json(path: Path) -> None:
    save_file(load_file(path), path, metadata={METADATA: "{"})


def of_a_huge_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 62) + path.read_bytes()[8:])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncated, "must be a safetensors file of a scorer: "),
        (lambda path: path.write_bytes(b"not a scorer"), "must be a safetensors file of a scorer: "),
        (lambda path: path.write_bytes(b""), "must be a safetensors file of a scorer: "),
        (of_a_huge_header, "must be a safetensors file of a scorer: "),
        (foreign, f"lacks '{METADATA}'"),
        (without_json, "must be a safetensors file of a scorer: "),
        (rewritten(lambda config, tensors: config.update(kind="side")), "kind must be one of front, coarse, trunk"),
        (rewritten(lambda config, tensors: config.pop("width")), "missing 1 required positional argument: 'width'"),
        (rewritten(lambda config, tensors: config.update(colour=1)), "unexpected keyword argument 'colour'"),
        (rewritten(lambda config, tensors: config.update(width=32)), "size mismatch"),
        (rewritten(lambda config, tensors: config.update(heads=3)), "width must be a multiple of heads, got 16 and 3"),
        (rewritten(lambda config, tensors: config.update(heads=0)), "width must be a multiple of heads, got 16 and 0"),
        (rewritten(lambda config, tensors: config.update(std=[0.2, 0, 0.2])), "std not zero"),
        (rewritten(lambda config, tensors: tensors.pop("head.bias")), "head.bias"),
        (rewritten(lambda config, tensors: tensors.update(extra=torch.zeros(1))), "extra"),
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_file_is_refused_in_one_line(
    saved: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(saved)
    assert reason in refused(saved)


def test_a_file_that_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "which is none" in refused(tmp_path / "none.safetensors")
    assert "which is none" in refused(tmp_path)
