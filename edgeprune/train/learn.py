"""Train the scorer of a method on a frozen model: what `edgeprune train` does, the same for every method.

What it learns from is the method's (`Method.learns`), a task for the one loop. Channels of the features go into the
scorer with mean 0 and spread 1 while it learns; what leaves takes them as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgeprune import pruners
from edgeprune.correction import digest_of
from edgeprune.errors import MethodError, RequestError
from edgeprune.export.opening import opened
from edgeprune.export.request import Request
from edgeprune.pruners._learned import FILE, Learned
from edgeprune.quality.language import Language, load_language
from edgeprune.quality.sweep.items import Item
from edgeprune.runtime.saving import save
from edgeprune.targets import load
from edgeprune.train.attention import Attention
from edgeprune.train.loop import BETAS, Loop, Show, Task, check_device
from edgeprune.train.relevance import Boxes
from edgeprune.train.resume import NAME as CHECKPOINT
from edgeprune.train.resume import State, check_begun, check_output
from edgeprune.train.sights import Sights
from edgeprune.train.straight import Answers

__all__ = ["TASKS", "LearnSettings", "learn"]

LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class LearnSettings:
    epochs: int = 2
    batch: int = 8
    lr: float = 1e-3
    weight_decay: float = 0.01
    seed: int = 0


TASKS: Mapping[str, Callable[[Learned, Sights, Language, int, int], Task]] = {
    "answers": Answers,
    "attention": Attention,
    "boxes": Boxes,
}
"""what a scorer can learn from: the answers of the frozen model; what its deeper layers attend to; boxes around what
questions are about"""


def learn(
    request: Request,
    items: Sequence[Item],
    output: Path,
    settings: LearnSettings = LearnSettings(),
    *,
    data: str = "",
    device: str = "cpu",
    resume: bool = False,
    force: bool = False,
    show: Show = lambda *_: None,
) -> dict[str, Any]:
    """Trains the scorer of a request's method for its model, and writes it to the folder `output` -> what it was made
    from, with the loss of each epoch.

    request: method, model, revision, layer, grid and size
    items: images with their questions; data: what these are, in words; device: cpu or cuda

    Raises MethodError for a method that is not trained so; RequestError for too few images, those without a question,
    and when `output` is taken; ModelError when the model has no language part or what is there is of other settings;
    Interrupted after SIGINT or SIGTERM, with everything saved; ImageError for an image that cannot be read;
    EdgepruneError when the loss is not finite or nothing can be written.
    """
    method = pruners.get(request.method)
    if not method.learns:
        able = [name for name in pruners.names() if pruners.get(name).learns]
        raise MethodError(f"{request.method} has nothing to learn; `edgeprune train` trains {', '.join(able)}")
    check_device(device)
    check_output(output, FILE, "scorer", resume, force)
    if resume:
        check_begun(output)
    if len(items) < settings.batch:
        raise RequestError(f"images must be {settings.batch} or more, as many as a batch, got {len(items)}")
    loaded = opened(dataclasses.replace(request, method="none"), load(request.target))
    encoder = loaded.encoder
    made = {
        "method": request.method,
        "model": loaded.checkpoint.id,
        "tower": digest_of(encoder.tower.module),
        "layer": encoder.layer,
        "data": data,
        "images": len(items),
        **dataclasses.asdict(settings),
    }
    language = frozen(request, device)
    sights = Sights(encoder, loaded.preprocessing, items, device)
    torch.manual_seed(settings.seed)
    scorer: Learned = method.untrained(*encoder.widths)
    task = TASKS[method.learns](scorer, sights, language, settings.batch, settings.seed)
    scorer.normalised(*sights.spread())
    scorer.to(device)
    output.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(scorer.parameters(), settings.lr, BETAS, weight_decay=settings.weight_decay)
    loop = Loop(
        task,
        scorer,
        optimizer,
        State({**made, "threads": torch.get_num_threads()}),
        output,
        settings.epochs,
        len(items) // settings.batch,
        settings.lr,
        largest_gradient=LARGEST_GRADIENT,
    )
    made |= loop.carry_out(resume, show)
    scorer.eval().requires_grad_(False).folded()
    save(output / FILE, lambda file: file.write(scorer.packed(request.method, made)))
    (output / CHECKPOINT).unlink(missing_ok=True)
    return made


def frozen(request: Request, device: str) -> Language:
    """The language part of the model, which nothing here changes. float16 has no room for gradients that small."""
    language = load_language(request.model, request.revision, device)
    language.model.requires_grad_(False)
    if next(language.model.parameters()).dtype == torch.float16:
        language.model.to(torch.bfloat16)
    return language
