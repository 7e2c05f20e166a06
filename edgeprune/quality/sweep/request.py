"""What `edgeprune sweep` was asked for, and what can be said of it before anything is computed. No torch."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgeprune.errors import ModelError, RequestError
from edgeprune.precisions import FLOATS, INT8
from edgeprune.quality.sweep.cache import CACHE
from edgeprune.quality.sweep.items import SCENES, Item, drawn, of_folder, of_questions
from edgeprune.quality.sweep.variants import Variant, variants
from edgeprune.quality.sweep.work import Place

__all__ = ["COUNT", "KEEP", "RESULT", "Request", "budgets", "checked", "images_of", "place_of"]

KEEP = (64, 32, 16, 8)
COUNT = 300
"""drawn scenes"""
RESULT = "sweep.json"
ROUNDS = 20
LONGEST = 16
"""new tokens of an answer, of a model that was not trained to give one"""
PRECISIONS = (*FLOATS, *INT8)
"""what graphs for the CPU are exported in"""
WEIGHTS = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
"""what a checkpoint's answers depend on"""


@dataclass(frozen=True)
class Request:
    """What `edgeprune sweep` was asked for."""

    output: Path
    methods: tuple[str, ...] = ()
    """each with its options, as `variants` reads them; none: all"""
    inside: tuple[str, ...] = ()
    """reducers that each method is tried with, inside the encoder"""
    encoder_costs: tuple[float, ...] = ()
    """shares of the unpruned multiply-adds that their steps are chosen for"""
    adapted: tuple[str, ...] = ()
    """what `edgeprune adapt` wrote for steps of some of these reducers, which are tried with it once more"""
    keep: tuple[int | float, ...] = ()
    """tokens, or floats in (0, 1]: their share of all; none: those of KEEP that are less than all"""
    precisions: tuple[str, ...] = ("float32",)
    """of PRECISIONS; what is lost is lost against the unpruned graph in the first of them"""
    layers: tuple[int | None, ...] = (None,)
    """indices into hidden_states; None: the model's own"""
    model: str | None = None
    revision: str | None = None
    grid: str | None = None
    images: str | None = None
    """a folder, or SCENES; None: SCENES for the embedded model"""
    questions: Path | None = None
    count: int | None = None
    """images, at most; None: COUNT scenes, all of a folder"""
    longest: int | None = None
    """new tokens of an answer; None: 1 of drawn scenes, else LONGEST"""
    device: str = "cpu"
    workers: int | None = None
    """None: a process for each CPU with the embedded model, which is small, else this process alone"""
    ray: str | None = None
    """the address of a cluster, or `ray_workers.LOCAL`; None: without Ray"""
    speed: bool = True
    rounds: int = ROUNDS
    """timed runs of each graph and the unpruned one in turns; up to three times as many where a ratio is unsteady"""
    keep_bundles: bool = False

    @property
    def scenes(self) -> bool:
        """Whether drawn scenes are what it is judged on."""
        return self.images in (None, SCENES)

    @property
    def count_of_workers(self) -> int:
        return self.workers or ((os.cpu_count() or 1) if self.model is None and self.device == "cpu" else 1)


def checked(request: Request) -> tuple[Variant, ...]:
    """The methods of it. Raises RequestError (and its kinds) for what cannot be."""
    if bool(request.inside) != bool(request.encoder_costs):
        raise RequestError("--inside and --encoder-cost go together, as --inside tome,cells --encoder-cost 0.6,0.5")
    for cost in request.encoder_costs:
        if not 0 < cost < 1:
            raise RequestError(f"--encoder-cost must be shares of the unpruned multiply-adds in (0, 1), got {cost:g}")
    rows = variants(request.methods, request.inside, request.encoder_costs, _adapted(request))
    for keep in request.keep:
        if isinstance(keep, float) and not 0 < keep <= 1:
            raise RequestError(f"--keep as a share must be in (0, 1], got {keep:g}; give tokens without a point, as 64")
        if keep <= 0:
            raise RequestError(f"--keep must be 1 or more, got {keep}")
    for precision in request.precisions:
        if precision not in PRECISIONS:
            raise RequestError(f"--precision must be one of {', '.join(PRECISIONS)}; got {precision}")
    if request.model is not None and request.images is None:
        raise RequestError(
            f"--images must say what {request.model} is judged on, and is missing: a folder of images, with "
            f"--questions FILE.jsonl if it answers any; or {SCENES}"
        )
    if request.questions is not None and request.scenes:
        raise RequestError(f"--questions goes with --images DIR, {SCENES} have their own; leave one of them out")
    output = request.output
    if output.exists() and not output.is_dir():
        raise RequestError(f"--output must be a folder, {output} is a file; choose another")
    if output.is_dir() and any(output.iterdir()) and not (output / CACHE).is_dir():
        raise RequestError(f"--output must be a new folder or that of a sweep, {output} holds something else")
    return rows


def _adapted(request: Request) -> dict[str, str]:
    """Reducer -> what was adapted to its steps. Raises RequestError and ModelError."""
    if request.adapted and request.ray:
        raise RequestError("--adapted is read on this machine, and --ray runs on others; leave one of them out")
    folders: dict[str, str] = {}
    for given in request.adapted:
        from edgeprune.adapted import made_of  # brings torch

        reducer = str(made_of(Path(given)).get("reducer"))
        if reducer not in request.inside or reducer in folders:
            wanted = "one of each reducer that --inside names" if reducer in request.inside else f"--inside {reducer}"
            raise RequestError(f"--adapted {given} was trained for steps of {reducer}; give {wanted} with it")
        folders[reducer] = given
    return folders


def images_of(request: Request, language: bool) -> tuple[Item, ...]:
    """What it is judged on. Raises RequestError and ImageError as `items` does.

    language: whether there is a language part to ask
    """
    if request.scenes:
        items = drawn(request.count or COUNT)
    elif request.questions is not None:
        if not language:
            raise RequestError(
                f"--questions need a model with a language part, {request.model} has none; leave them out, and what is "
                "left of the unpruned tokens is measured"
            )
        items = of_questions(request.questions, Path(request.images or ""), request.count)
    else:
        items = of_folder(Path(request.images or ""), request.count)
    return items if language and all(item.queries for item in items) else tuple(Item(i.name, i.source) for i in items)


def place_of(request: Request, longest: int = 1) -> tuple[Place, str, bool]:
    """Where the model is, a digest of it, and whether it has a language part. Raises ModelError."""
    model, revision, folder = request.model, request.revision, None
    if model is None:
        folder = Path(str(files("edgeprune"))) / "models" / "tiny"
    elif os.path.isdir(model):
        folder = Path(os.path.abspath(model))
    if folder is None:
        from edgeprune.checkpoint import find  # brings torch

        checkpoint = find(model, revision)
        revision, digest = checkpoint.revision, f"{checkpoint.id}@{checkpoint.revision}"
        config = json.loads(checkpoint.locate("config.json").read_text(encoding="utf-8"))
    else:
        if revision is not None:
            raise ModelError(f"--revision goes with a Hugging Face id, {folder} is a folder; leave it out")
        model, digest = str(folder), _digest(folder)
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ModelError(
                f"--model must be a folder with a config.json, {folder} has none that can be read"
            ) from None
    longest = request.longest or (1 if request.scenes else LONGEST)
    # The workers share the CPUs; one alone has ONNX Runtime's and torch's own choice.
    # A task of Ray has one CPU.
    count = request.count_of_workers
    threads = 1 if request.ray else None if count == 1 else max(1, (os.cpu_count() or 1) // count)
    place = Place(model, revision, request.grid, request.device, threads, longest)
    return place, digest, _answers(config, folder)


def budgets(request: Request, patches: int) -> tuple[int, ...]:
    """The numbers of tokens, most first. Raises RequestError for one that is more than all."""
    if not request.keep:
        given = tuple(keep for keep in KEEP if keep < patches)
        return given or (max(1, patches // 2),)
    counts = {max(1, round(keep * patches)) if isinstance(keep, float) else keep for keep in request.keep}
    if max(counts) > patches:
        raise RequestError(f"--keep must be in 1..{patches} for {patches} patches, got {max(counts)}")
    return tuple(sorted(counts, reverse=True))


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted({path for pattern in WEIGHTS for path in folder.glob(pattern)}):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _answers(config: Any, folder: Path | None) -> bool:
    """Whether a language part goes with it, and its weights are there."""
    if not isinstance(config, dict) or "text_config" not in config or "CLIP" in str(config.get("architectures")):
        return False
    if folder is None:
        return True
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return all((folder / name).is_file() for name in set(index.values()))
