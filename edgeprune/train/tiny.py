"""The embedded vision-language model, trained once more from nothing on drawn scenes.

    python -m edgeprune.train.tiny --output DIR                 --resume goes on where DIR was left

    1. sight      the vision tower alone (`edgeprune.train.sight`)
    2. reading    decoder and projector behind it, which is frozen from here on (`edgeprune.train.reading`)
    3. dropping   the same with token drop

The sizes, the tokenizer and the processor are those of the embedded model. Muon for the matrices inside the layers,
AdamW for the rest, a warm-up and half a cosine in each stage. Everything follows from the seed and the number of
threads; an interruption changes nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import shutil
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune import __version__
from edgeprune.checkpoint import DEFAULT_MODEL, find
from edgeprune.errors import EdgepruneError, RequestError
from edgeprune.quality.errors import Mean, clustered
from edgeprune.quality.language import Language
from edgeprune.quality.questions import ask
from edgeprune.quality.scenes import HELD_OUT_SEED, held_out
from edgeprune.train.drawings import Drawings, pixel_values
from edgeprune.train.loop import Loop, Show
from edgeprune.train.muon import MuonAdamW, split
from edgeprune.train.reading import Reading, features
from edgeprune.train.resume import NAME as CHECKPOINT
from edgeprune.train.resume import State, check_output, interruptible
from edgeprune.train.sight import PatchHeads, Sight

__all__ = ["RECORD", "TinySettings", "accuracy", "new_model", "train_tiny"]

RECORD = "training.json"
"""the settings, the losses and the accuracy; written last"""
COPIED = ("chat_template.jinja", "generation_config.json", "processor_config.json", "tokenizer.json",
          "tokenizer_config.json")  # fmt: skip
BETAS = (0.9, 0.98)
LARGEST_GRADIENT = 1.0
STAGES = ("sight", "reading", "dropping")


@dataclass(frozen=True)
class TinySettings:
    scenes: int = 24_000
    rounds: tuple[int, int, int] = (20, 9, 6)
    """of each stage"""
    per_round: int = 100
    """steps; the losses are kept for each round"""
    batches: tuple[int, int, int] = (48, 32, 32)
    lr: float = 2e-3
    weight_decay: float = 0.05
    bf16: bool = True
    seed: int = 0
    """of the weights, the order and the scenes; never the held-out one"""


def train_tiny(
    output: Path,
    settings: TinySettings = TinySettings(),
    *,
    judged: int = 1000,
    resume: bool = False,
    force: bool = False,
    show: Show = lambda *_: None,
) -> dict[str, Mean]:
    """Trains, writes the checkpoint to the folder `output` as `from_pretrained` takes it, and returns its accuracy per
    kind of question on so many held-out scenes.

    Raises RequestError for the held-out seed, for too few scenes and when `output` is taken; ModelError when what is
    there is of other settings; Interrupted after SIGINT or SIGTERM, with everything saved; EdgepruneError when the loss
    is not finite or nothing can be written.
    """
    if settings.seed == HELD_OUT_SEED:
        raise RequestError(f"--seed must not be {HELD_OUT_SEED}, whose scenes are held out; take another")
    if settings.scenes < (needed := settings.per_round * max(settings.batches)):
        raise RequestError(f"scenes must be {needed} or more, as many as a round takes, got {settings.scenes}")
    for stage in STAGES:
        check_output(output / stage, CHECKPOINT, "training", resume, force)
    if not resume:
        for stage in STAGES:
            shutil.rmtree(output / stage, ignore_errors=True)
    drawings = Drawings(settings.scenes, settings.seed, lambda done, total: show(done, total, "scenes"))
    torch.manual_seed(settings.seed)
    model, processor = new_model()
    losses = {}
    with interruptible() as asked:
        for stage in STAGES:
            loop = _stage(stage, model, processor, drawings, settings, output / stage)
            begun = (loop.folder / CHECKPOINT).is_file()
            if begun:
                loop.restore()
            else:
                loop.folder.mkdir(parents=True, exist_ok=True)
                loop.save()
            loop.run(asked, show)
            losses[stage] = {"loss": loop.state.losses, "seconds": round(loop.state.seconds, 1)}
    model.eval().requires_grad_(False)
    by_kind = accuracy(model, processor, judged)
    _write(output, model, {**dataclasses.asdict(settings), **losses}, by_kind)
    return by_kind


def new_model() -> tuple[Any, Any]:
    """An untrained LlavaForConditionalGeneration of the embedded model's sizes, and its processor."""
    import transformers

    folder = find(DEFAULT_MODEL).place
    config = transformers.AutoConfig.from_pretrained(folder)
    model: Any = transformers.LlavaForConditionalGeneration(config)
    model.float()
    model.set_attn_implementation("sdpa")
    processor: Any = transformers.AutoProcessor
    return model, processor.from_pretrained(folder)


def _stage(stage: str, model: Any, processor: Any, drawings: Drawings, settings: TinySettings, folder: Path) -> Loop:
    at = STAGES.index(stage)
    trained: Any = model
    task: Any
    options = (settings.batches[at], settings.per_round, settings.seed + at, settings.bf16)
    if stage == "sight":
        tower = model.model.vision_tower
        trained = nn.ModuleDict({"tower": tower, "heads": PatchHeads(tower.config.hidden_size)})
        for unread in _post_norms(tower):
            unread.requires_grad_(False)
        task = Sight(trained, drawings, processor.image_processor, model.config.vision_feature_layer, *options)
    else:
        model.model.vision_tower.requires_grad_(False)
        if stage == "reading":
            _scale(model, drawings, processor)
        task = Reading(Language(model, processor, "the model"), drawings, *options, drop=stage == "dropping")
    trained.zero_grad()  # what the stage before left would count in the norm
    request = {**dataclasses.asdict(settings), "stage": stage, "threads": torch.get_num_threads()}
    optimizer = MuonAdamW(*split(trained), settings.lr, settings.weight_decay, BETAS)
    return Loop(
        task,
        trained,
        optimizer,
        State(request),
        folder,
        settings.rounds[at],
        settings.per_round,
        settings.lr,
        f"{stage}: ",
        LARGEST_GRADIENT,
    )


def _post_norms(tower: nn.Module) -> list[nn.Module]:
    """What stands behind the last layer, which nothing here reads."""
    return [module for name, module in tower.named_modules() if name.endswith("post_layernorm")]


@torch.no_grad()
def _scale(model: Any, drawings: Drawings, processor: Any) -> None:
    """Features are larger than what a linear layer is made for: its weights are divided by their standard deviation."""
    pixels = pixel_values(drawings.images[:32], processor.image_processor)
    model.model.multi_modal_projector.linear_1.weight.div_(features(model, pixels).std())


@torch.no_grad()
def accuracy(model: Any, processor: Any, count: int, batch: int = 50) -> dict[str, Mean]:
    """Kind of question -> share of right answers on the first held-out scenes, with all tokens."""
    language, marks = Language(model, processor, "the model"), defaultdict(list)
    scenes = held_out(count)
    for at in range(0, count, batch):
        part = scenes[at : at + batch]
        pixels = pixel_values(np.stack([scene.image for scene in part]), processor.image_processor)
        tokens = model.model.multi_modal_projector(features(model, pixels))
        questions = [ask(scene) for scene in part]
        answers = language.answers(tokens, [[one.text for one in own] for own in questions])
        for scene, own, given in zip(part, questions, answers, strict=True):
            for question, answer in zip(own, given, strict=True):
                marks[question.kind].append((float(answer == question.answer), scene.index))
    return {kind: clustered(*map(list, zip(*rows, strict=True))) for kind, rows in sorted(marks.items())}


def _write(output: Path, model: Any, record: dict[str, Any], by_kind: dict[str, Mean]) -> None:
    """As float16, like the embedded one; the record comes last."""
    record |= {"accuracy": {kind: dataclasses.asdict(mean) for kind, mean in by_kind.items()}}
    record |= {"threads": torch.get_num_threads()}
    record |= {"versions": {"edgeprune": __version__, "torch": torch.__version__, "python": platform.python_version()}}
    try:
        (output / RECORD).unlink(missing_ok=True)
        model.half().save_pretrained(output)
        for name in COPIED:
            shutil.copyfile(Path(find(DEFAULT_MODEL).place) / name, output / name)
        (output / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise EdgepruneError(f"the model cannot be written to {output}: {error}; make room, and --resume") from None


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m edgeprune.train.tiny", description="Train the embedded model.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint and the stages")
    parser.add_argument("--seed", type=int, default=TinySettings.seed)
    parser.add_argument("--lr", type=float, default=TinySettings.lr)
    parser.add_argument("--threads", type=int, default=1, help="another number gives slightly other weights")
    parser.add_argument("--resume", action="store_true", help="go on with the training in the folder")
    parser.add_argument("--force", action="store_true", help="replace it")
    given = parser.parse_args(arguments)
    import transformers

    torch.set_num_threads(given.threads)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    def report(done: int, total: int, what: str) -> None:
        if done == total or done % (4000 if what == "scenes" else 100) == 0:
            print(f"{done} of {total}: {what}", flush=True)

    settings = TinySettings(seed=given.seed, lr=given.lr)
    try:
        by_kind = train_tiny(given.output, settings, resume=given.resume, force=given.force, show=report)
    except EdgepruneError as error:
        print(f"edgeprune: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    print(", ".join(f"{kind} {100 * mean.value:.1f} +- {100 * mean.error:.1f} %" for kind, mean in by_kind.items()))


if __name__ == "__main__":
    main()
