"""Layouts of checkpoints that are not what save_pretrained() writes, known by their names, each with the way to one.

pytorch_model.bin                pickled                                                      edgeprune convert
module.*, *._orig_mod.*          saved from a wrapper: DistributedDataParallel, torch.compile, FSDP    the same
mm_projector, mm_vision_tower    by the code of LLaVA's authors                                        the same
adapter_config.json, *.lora_A.*  adapters of PEFT, which change weights that stand elsewhere       merge them first
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from json import dumps
from pathlib import Path
from typing import Any

from edgeprune.checkpoint._config import architecture
from edgeprune.errors import ModelError

__all__ = [
    "HARMLESS",
    "adapter",
    "beside",
    "check_names",
    "check_original",
    "convertible",
    "is_original_llava",
    "not_read",
    "unwrapped",
]

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
ADAPTED = re.compile(
    r"(lora|vera|oft|ia3|hra|ln_tuning|road|randlora|shira)_\w+|base_layer|modules_to_save|original_module"
)
HARMLESS = ("position_ids", "inv_freq")
"""constants that older releases of transformers stored, and newer ones compute: last part of the name"""


def convertible(place: str) -> str:
    """The command that makes a checkpoint of ours."""
    return f"`edgeprune convert {shlex.quote(place)}`"


def beside(place: str, suffix: str) -> str:
    """Where the converted one goes: next to a folder, or for an id of the hub into the working folder.

    >>> beside("owner/name", "-plain")
    'name-plain'
    """
    if not os.path.isdir(place):
        return place.rpartition("/")[2] + suffix
    path = Path(place)
    return f"{path if path.name not in ('', '..') else path.resolve()}{suffix}"


def unwrapped(name: str) -> str:
    """
    >>> unwrapped("module.vision_tower._orig_mod.layers.0.weight"), unwrapped("_orig_mod.module.head.bias")
    ('vision_tower.layers.0.weight', 'head.bias')
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS).removeprefix("module.")


def check_names(names: Iterable[str], place: str, id: str) -> None:
    """Raises ModelError when tensors have names of a wrapper, or are adapters beside the weights that they change."""
    for name in names:
        if unwrapped(name) != name:
            raise ModelError(
                f"{id}: tensor {name} has the name that a wrapper gave it; take it off once with {convertible(place)}"
            )
        if any(ADAPTED.fullmatch(part) for part in name.split(".")):
            raise ModelError(
                f"{id}: tensor {name} is of an adapter that is not merged; load it with peft, merge_and_unload() and "
                f"save_pretrained() it"
            )


def is_original_llava(config: dict[str, Any]) -> bool:
    return "vision_config" not in config and ("mm_vision_tower" in config or "mm_projector_type" in config)


def check_original(config: dict[str, Any], place: str, id: str) -> None:
    """Raises ModelError for a checkpoint of the code of LLaVA's authors, whose config names the tower."""
    if is_original_llava(config):
        raise ModelError(
            f"{id} is a checkpoint of the original LLaVA code, not of transformers; convert it once with "
            f"{convertible(place)}"
        )


def adapter(settings: dict[str, Any], base_config: dict[str, Any] | None, place: str) -> ModelError:
    """settings: adapter_config.json; base_config: config.json of the model that it changes, where it is here"""
    base, class_ = settings.get("base_model_name_or_path"), (settings.get("auto_mapping") or {}).get("base_model_class")
    if base_config is not None:
        class_ = architecture(base_config)
    if not isinstance(class_, str) or not class_.isidentifier():
        class_ = "AutoModelForImageTextToText" if settings.get("task_type") == "CAUSAL_LM" else "AutoModel"
    was, own, merged = (dumps(one) for one in (str(base), place, beside(place, "-merged")))
    code = (
        f"from peft import PeftModel as A; from transformers import AutoImageProcessor as P, {class_} as M; "
        f"A.from_pretrained(M.from_pretrained({was}), {own}).merge_and_unload().save_pretrained({merged}); "
        f"P.from_pretrained({was}).save_pretrained({merged})"
    )
    return ModelError(
        f"{place} has an adapter of PEFT, which changes the weights of {base}; merge it once: "
        f"python -c {shlex.quote(code)}"
    )


def not_read(id: str, name: str, reader: str) -> ModelError:
    """For a tensor of the encoder that would be left out in silence; reader: who does not read it."""
    return ModelError(
        f"{id}: tensor {name} is among the encoder's and {reader} does not read it, so that the encoder would not be "
        f"the checkpoint's; merge it into the weights, or remove it if it changes nothing"
    )
