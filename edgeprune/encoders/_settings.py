"""What the file of an image processor says, in any of its spellings, as transformers 5 reads it.

    {"size": 224, "crop_size": 224}                      transformers 4, first years
    {"size": {"shortest_edge": 224}, "do_resize": ...}   preprocessor_config.json
    {"image_processor": {...}, "image_token": ...}       processor_config.json, transformers 5

What a file leaves out is the default of its class; `null` is not left out, it switches a step off. What the class does
not read does nothing. Defaults are declared by the families, in PROCESSORS; of a class that none of them declares it is
not known what it does: its file must say everything, and nothing but the common steps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Processor, processors
from edgeprune.encoders._processor import COMMON
from edgeprune.errors import ModelError

__all__ = ["SILENT", "Settings", "cuts_parts", "cuts_tiles", "input_size", "pair", "settings_of"]

_UNKNOWN = Processor({"default_to_square": True, "do_convert_rgb": False, "rescale_factor": 1 / 255, "do_pad": False})
SILENT = {
    *("image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "_valid_processor_keys"),
    *("data_format", "input_data_format", "device", "return_tensors", "disable_grouping", "image_seq_length"),
}
"""what a file of any class may say that changes no pixel"""
MOST_LONGEST = 4096
"""pixels of the longest edge that a class that splits images scales to"""
_SIZES = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"}, {"max_height", "max_width"})


@dataclass(frozen=True)
class Settings:
    """The settings of one image processor. What is asked of it raises ValueError or TypeError, in one line, where the
    file says what the class cannot do."""

    kind: str
    """the class, as the file has it"""
    processor: Processor
    values: Mapping[str, Any]
    """what the file says, and the defaults of the class for the rest"""

    def on(self, step: str) -> bool:
        return step not in self.processor.ignores and bool(self.value(step))

    def value(self, name: str) -> Any:
        """Raises ValueError where it is neither said nor known, or null though its step is on."""
        if name not in self.values:
            raise ValueError(f"{self.kind} has defaults that edgeprune does not know, and its file does not say {name}")
        if self.values[name] is None and not name.startswith("do_"):
            raise ValueError(f"{name} is null, but {self.kind} has the step on")
        return self.values[name]

    def resize(self) -> dict[str, int] | None:
        """{height, width}, {shortest_edge}, {shortest_edge, longest_edge} or {max_height, max_width}; None: off"""
        if self.processor.splits:
            side = self._longest("max_image_size")
            return {"height": side, "width": side}
        if not self.on("do_resize"):
            return None
        if self.values.get("use_square_size") and "use_square_size" in self.processor.reads:
            side = self.processor.defaults["size"]["shortest_edge"]
            return {"height": side, "width": side}
        given = _size(self.value("size"), self._squared)
        size = {name: value for name, value in given.items() if name not in self.processor.ignores}
        if set(size) not in _SIZES:
            raise ValueError(f"{self.kind} cannot resize images to a size of {', '.join(sorted(given))}")
        return size

    def longest(self) -> int:
        """The longer side that an image is scaled to before it is split."""
        if not self.on("do_resize"):
            raise ValueError(f"{self.kind} must scale images first (do_resize), or their number of tiles is not known")
        if (longest := self._longest("size")) > MOST_LONGEST:
            raise ValueError(f"size must have a longest_edge of at most {MOST_LONGEST}, got {longest}")
        return longest

    def _longest(self, name: str) -> int:
        size = _size(self.value(name), True)
        if set(size) != {"longest_edge"}:
            raise ValueError(f"{name} must have longest_edge; it has {', '.join(sorted(size))}")
        return size["longest_edge"]

    def crop(self) -> tuple[int, int] | None:
        """(height, width); None: it is off"""
        if not self.on("do_center_crop"):
            return None
        size = _size(self.value("crop_size"), True)
        if set(size) != {"height", "width"}:
            raise ValueError(f"crop_size must have height and width; it has {', '.join(sorted(size))}")
        return size["height"], size["width"]

    def result(self) -> tuple[int, int] | None:
        """(height, width) of what every image becomes; None where that depends on the image."""
        resize, crop = self.resize() or {}, self.crop()
        if (padded := self.padded()) is not None:
            return padded
        return (resize["height"], resize["width"]) if crop is None and "height" in resize else crop

    def padded(self) -> tuple[int, int] | None:
        """(height, width) that a smaller image, normalised, is padded to; None: it is not, or by another step."""
        if self.processor.squares or not self.on("do_pad") or self.values.get("pad_size") is None:
            return None
        size = _size(self.values["pad_size"], True)
        return size["height"], size["width"]

    @property
    def tiled(self) -> bool:
        """Whether it cuts an image into tiles and a thumbnail, as InternVL's does."""
        crops = "crop_to_patches" in self.processor.reads and bool(self.values["crop_to_patches"])
        return crops and bool(self.value("max_patches") > 1)

    @property
    def part(self) -> int:
        """Side of the tiles, pixels, that it cuts large images into, beside a thumbnail of another size, as LFM2-VL's
        does; 0 where it does not."""
        splits = self.processor.parts and self.on("do_image_splitting") and self.value("max_tiles") > 1
        return int(self.value("tile_size")) if splits else 0

    @property
    def _squared(self) -> bool:
        name = "default_to_square"
        return bool((self.processor.defaults if name in self.processor.ignores else self.values)[name])


def settings_of(given: Mapping[str, Any], model_type: str = "") -> Settings:
    """
    given: the content of preprocessor_config.json, or of processor_config.json (transformers 5)
    model_type: of the checkpoint, which says the class where the file does not

    Raises ValueError when the class is not known, and the file says something beside the common settings.
    """
    said = dict(given.get("image_processor") or given)
    known = processors()
    own = [name for name, one in known.items() if model_type in one.models]
    default = f"{own[0] if own else 'CLIP'}ImageProcessor"
    kind = str(said.get("image_processor_type") or said.get("feature_extractor_type") or default)
    processor = known.get(re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", kind))
    if processor is None:
        processor = _UNKNOWN
        if others := sorted(name for name in said if said[name] and name not in {*COMMON, *SILENT}):
            raise ValueError(
                f"{kind} is told {', '.join(others)}, and edgeprune does not know what that does to pixels"
            )
    filled = {name: value for name, value in said.items() if value is not None or name not in processor.fills}
    return Settings(kind, processor, {**processor.defaults, **filled})


def input_size(checkpoint: Checkpoint, default: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) in which the image processor hands images over, for families that take any size.

    default: of the config; what it was trained at is often not what it is used at

    Raises ModelError when the image processor's size is of no kind that transformers writes.
    """
    try:
        return settings_of(checkpoint.processor, checkpoint.config["model_type"]).result() or pair(default)
    except (ValueError, TypeError) as error:
        raise ModelError(f"{checkpoint.id}: its image processor must give height and width; {error}") from None


def cuts_tiles(checkpoint: Checkpoint) -> bool:
    """Whether its image processor cuts an image into tiles and a thumbnail, as InternVL's does."""
    try:
        return settings_of(checkpoint.processor, checkpoint.config["model_type"]).tiled
    except (ValueError, TypeError):  # what is wrong with it is said where its steps are read
        return False


def cuts_parts(checkpoint: Checkpoint, size: tuple[int, int]) -> bool:
    """Whether it cuts large images into tiles of that (height, width), without the whole image among them."""
    try:
        part = settings_of(checkpoint.processor, checkpoint.config["model_type"]).part
    except (ValueError, TypeError):
        return False
    return size == (part, part)


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """
    >>> pair(224), pair([448, 224])
    ((224, 224), (448, 224))
    """
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _size(size: Any, square: bool) -> dict[str, int]:
    """As transformers' get_size_dict: an integer is a square, or the shortest edge; a list is height and width."""
    if isinstance(size, int):
        return {"height": size, "width": size} if square else {"shortest_edge": size}
    if isinstance(size, (list, tuple)):
        height, width = size
        return {"height": height, "width": width}
    if not isinstance(size, Mapping):
        raise ValueError(f"a size must be a number, a pair or an object, got {size!r}")
    return {name: value for name, value in size.items() if value is not None}
