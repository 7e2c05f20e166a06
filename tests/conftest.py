"""Checkpoints that tests make for themselves: real transformers classes, small or large, with seeded random weights."""

from __future__ import annotations

import atexit
import gc
import json
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.brightest import Expected, MakeBundle, expected, normalised, write_bundle

if TYPE_CHECKING:
    from edgeprune.export import Exported
    from edgeprune.export.assemble import Assembly

try:
    import torch
    from safetensors.torch import save_file as save_torch_file
except ModuleNotFoundError:  # .ci/lowest tests what a device needs, without it
    pass
else:
    if "PYTEST_XDIST_WORKER" in os.environ:  # the workers are the threads
        torch.set_num_threads(1)

gc.set_threshold(50_000, 20, 50)  # most of what there is are modules, and no garbage: a twentieth of the time
atexit.register(gc.freeze)  # as the command line does

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts its background jobs so, and processes inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 48,
    "patch_size": 8,
}
"""36 patches + [CLS]"""

LLAVA_7B_VISION: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
"""CLIP ViT-L/14-336: 576 patches + [CLS]"""

CLIP_PROCESSOR: dict[str, Any] = {
    "image_processor_type": "CLIPImageProcessor",
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
"""CLIP's image processor without its size, with old-style fields as the hub's checkpoints have them"""

QUERY_GAIN = 1.5
"""largest standard deviation of queries and keys made of normed features; those of TINY_VISION have 1.4"""


@pytest.fixture(scope="session")
def exported_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """(method, target, **fields of a Request) -> that export of the embedded model; not to be changed.

    The first worker that asks makes it, and the others find it on disk.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def find(method: str, target: str, **fields: Any) -> Exported:
        from filelock import FileLock

        from edgeprune.export import Request, export_bundle

        name = "-".join(map(str, (method, target, *(f"{key}{value}" for key, value in fields.items()))))
        kept = shared / f"{name}.pickle"
        with FileLock(shared / f"{name}.lock"):
            if not kept.exists():
                done = export_bundle(Request(method, target, output=shared / name / "bundle", **fields))
                kept.write_bytes(pickle.dumps(done))
        found: Exported = pickle.loads(kept.read_bytes())
        return found

    return find


@pytest.fixture(scope="session")
def assembled_once(
    exported_once: Callable[..., Exported], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Assembly]:
    """(keep=64, engine="genai", precision="float32") -> the embedded model, assembled of such an export of fastervlm.

    Not to be changed; keep=144 keeps every token. Made once for all workers, as `exported_once` makes its own.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def find(keep: int = 64, engine: str = "genai", precision: str = "float32") -> Assembly:
        from filelock import FileLock

        from edgeprune.export.assemble import Request, assemble

        pytest.importorskip("onnxruntime_genai")
        name = f"assembled-{keep}-{engine}-{precision}"
        kept = shared / f"{name}.pickle"
        method = {} if keep == 64 else {"baselines": False}
        bundle = exported_once("none" if keep == 144 else "fastervlm", "cpu", keep=keep, **method).folder
        with FileLock(shared / f"{name}.lock"):
            if not kept.exists():
                request = Request(bundle, engine=engine, decoder_precision=precision, output=shared / name / "model")
                kept.write_bytes(pickle.dumps(assemble(request)))
        found: Assembly = pickle.loads(kept.read_bytes())
        return found

    return find


@pytest.fixture(scope="session")
def clip_folder() -> Callable[..., Path]:
    """(folder, architecture="CLIPVisionModel" | "CLIPModel", **vision config) -> a checkpoint by save_pretrained."""

    def make(folder: Path, architecture: str = "CLIPVisionModel", **vision: Any) -> Path:
        from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel

        torch.manual_seed(0)
        sizes = {**TINY_VISION, **vision}
        if architecture == "CLIPVisionModel":
            model: Any = CLIPVisionModel(CLIPVisionConfig(**sizes))
        else:
            text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
            model = CLIPModel(CLIPConfig(vision_config=sizes, text_config={**text, "vocab_size": 64}))
        _spread(model)
        model.save_pretrained(folder)
        write_processor(folder, sizes["image_size"])
        return folder

    return make


@pytest.fixture(scope="session")
def llava_folder() -> Callable[..., Path]:
    """(folder, **vision config) -> LlavaForConditionalGeneration as save_pretrained writes it, in one file."""

    def make(folder: Path, max_shard_size: str = "50GB", **vision: Any) -> Path:
        from transformers import LlavaConfig, LlavaForConditionalGeneration

        torch.manual_seed(0)
        sizes = {**TINY_VISION, **vision}
        text = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = LlavaConfig(
            vision_config={"model_type": "clip_vision_model", **sizes},
            text_config={"model_type": "llama", "vocab_size": 64, "num_key_value_heads": 2, **text},
            image_token_index=3,
        )
        model = LlavaForConditionalGeneration(config)
        _spread(model)
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        write_processor(folder, sizes["image_size"])
        return folder

    return make


@pytest.fixture(scope="session")
def model_folder() -> Callable[..., Path]:
    """(folder, class of transformers, image processor=None, **config) -> a checkpoint by save_pretrained.

    The sizes are those of TINY_VISION; of a class with a vision_config, all sizes come from the config given.
    """

    def make(folder: Path, architecture: str, processor: dict[str, Any] | None = None, **given: Any) -> Path:
        import transformers

        torch.manual_seed(0)
        cls: Any = getattr(transformers, architecture)
        fields = cls.config_class.__dataclass_fields__
        sizes = {} if "vision_config" in fields else {name: TINY_VISION[name] for name in TINY_VISION if name in fields}
        model = cls(cls.config_class(**{**sizes, **given}))
        _spread(model)
        model.save_pretrained(folder)
        write_processor(folder, TINY_VISION["image_size"])
        if processor is not None:
            (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        return folder

    return make


@pytest.fixture(scope="session")
def llava_7b_folder() -> Callable[[Path], Path]:
    """(folder) -> a checkpoint shaped like LLaVA-1.5-7B whose language model's shards are absent."""

    def make(folder: Path) -> Path:
        from transformers import CLIPVisionConfig, CLIPVisionModel, LlavaConfig
        from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

        torch.manual_seed(0)
        config = LlavaConfig(
            vision_config={"model_type": "clip_vision_model", **LLAVA_7B_VISION},
            text_config={"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32},
        )
        tower = CLIPVisionModel(CLIPVisionConfig(**LLAVA_7B_VISION))
        projector = LlavaMultiModalProjector(config)
        tensors = {f"vision_tower.vision_model.{name}": value for name, value in tower.state_dict().items()}
        tensors |= {f"multi_modal_projector.{name}": value for name, value in projector.state_dict().items()}
        folder.mkdir(parents=True, exist_ok=True)
        here, absent = "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"
        save_torch_file(tensors, folder / here, {"format": "pt"})
        names = {**dict.fromkeys(tensors, here), "language_model.model.embed_tokens.weight": absent}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
        config.save_pretrained(folder)
        write_processor(folder, LLAVA_7B_VISION["image_size"])
        return folder

    return make


def write_processor(folder: Path, size: int) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({**CLIP_PROCESSOR, "crop_size": size, "size": size}))


def _spread(model: torch.nn.Module) -> None:
    """Larger weights than the initial ones, so that attention is peaked and patches differ; nothing stays zero, and no
    special token or position stays small, so that a wrong one shows.

    Queries and keys stay below QUERY_GAIN. SigLIP's initial weights are large already: four times as large they made
    logits of 158, CLIP's of 25, and the rounding of float16 in front of them moved attention by more than its bound.
    """
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("_token", "_tokens", "position_embeddings")) or not value.any():
                value.normal_()
            elif value.dim() > 1:
                value.mul_(4)
                if name.endswith(("q_proj.weight", "k_proj.weight")):
                    value.mul_(min(1, QUERY_GAIN / float(value.std() * value.shape[1] ** 0.5)))
            else:
                value.add_(0.1 * torch.randn_like(value))


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """make_bundle(batch=1, dtype="float32", shift=0, probes=2, picks=False, prior=False, classes=False, **fields) ->
    its folder."""
    made: list[Path] = []

    def make(**options: Any) -> Path:
        made.append(write_bundle(tmp_path / f"bundle{len(made)}", **options))
        return made[-1]

    return make


@pytest.fixture(name="normalised")
def normalised_fixture() -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    return normalised


@pytest.fixture(name="expected")
def expected_fixture() -> Callable[[NDArray[Any]], Expected]:
    return expected


@pytest.fixture
def photo() -> NDArray[np.uint8]:
    """[64, 96, 3] uint8: noise, brighter to the lower right."""
    slope = np.add.outer(np.arange(64), np.arange(96))[..., None]
    return (slope + np.random.default_rng(7).integers(0, 90, (64, 96, 3))).astype(np.uint8)
