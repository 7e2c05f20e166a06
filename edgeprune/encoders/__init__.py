"""Encoder families: one file each, found by the `model_type` of config.json.

A family's file declares `MODEL_TYPES` and `load(checkpoint, layer) -> Encoder`. A family that can be the vision tower
of another also declares `tower(checkpoint, config, *prefixes, size=None) -> Tower`; one whose load takes `grid`,
`video`, `size` or `head` names them in `OPTIONS`; one that knows why its like are refused says so in `REFUSED`. Two
more are read by others: `HAS`, by the catalog, which imports nothing, so that it is a literal; and `PROCESSORS`, the
classes of image processors that come with the family. Nothing else has to change for a new one. What families share is
in `_load`, `_heads`, `_processor` and `_settings`, `_positions`, `_attention` and `_grid`. Models that none is like are
refused in `_refused`.

    HAS = {"": ("[CLS]", "variable sequence length")}       kind of tower, where there are several -> traits.FEATURES
    PROCESSORS = {"ViT": Processor(VIT)}                class of transformers, without ImageProcessor
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune import catalog
from edgeprune.catalog import feature_depth
from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders._building import building
from edgeprune.encoders._keys import Keys
from edgeprune.encoders._processor import Processor
from edgeprune.errors import RequestError
from edgeprune.ports import ALIGNED, LEARNED, PATCHES, QUERIES, TOKENS, Port
from edgeprune.prior import Prior
from edgeprune.schedule import Inside
from edgeprune.traits import DETECTS

__all__ = ["Encoder", "Head", "Processor", "Tower", "families", "family_of", "feature_depth", "load", "processors"]


@dataclass(frozen=True)
class Tower:
    """A vision tower of transformers and what a trace must know of it."""

    module: nn.Module
    """(pixel_values [B, 3, H, W], output_hidden_states=True) -> .hidden_states, a tuple of [B, prefix + N, C], and
    .last_hidden_state, the last of them behind the final norm where the family applies one"""
    attention: Sequence[nn.Module]
    """the module of each layer that calls transformers' attention interface, first layer first"""
    patch_embedding: nn.Conv2d
    image_size: tuple[int, int]
    grid: tuple[int, int]
    prefix: int
    """special tokens before the patches"""
    has_cls: bool
    """whether token 0 is [CLS]"""
    width: int
    """C"""
    mlp_width: int
    """width that a plain two-layer MLP of as many weights has: 1.5 times its own for a gated one"""
    batched: bool = True
    """whether it takes several images at a time"""
    suffix: int = 0
    """special tokens behind the patches"""
    embeddings: nn.Module | None = None
    """the module that gives [B, prefix + N + suffix, C] in front of the layers, if these take any number of tokens"""
    blocks: Sequence[nn.Module] = ()
    """the layers, each called with the hidden states first, where these may get fewer on the way"""
    between: nn.Module | None = None
    """the module that gives what is added behind each layer but the last, [L - 1, 1, S, C], where there is such"""

    before: Sequence[nn.Module] = ()
    """the attention of what stands in front of hidden_states[0], where there are more patches than behind it"""
    before_cost: int = 0
    """multiply-adds of that, of one image, its patch embedding apart"""
    rotary: bool = False
    """whether its blocks are called with position_embeddings=(cos, sin) of the patches, [P, d] each"""

    @property
    def heads(self) -> int:
        """Of its attention."""
        config: Any = self.module.config
        return int(getattr(config, "num_attention_heads", None) or config.num_heads)


@dataclass(frozen=True)
class Head:
    """What a tower ends in where it gives no tokens: the checkpoint's own head, which is the encoder's `projector`.

    It reads few rows of the tower's last layer, so that nothing is gained by dropping tokens behind that.
    """

    kind: str
    """of `edgeprune.bundle.KINDS`, which names what the projector returns, a tuple: [B, R, C] -> [B, ...] each"""
    rows: tuple[int, ...]
    """the special tokens that it reads, counted from the first token, or (below 0) from the end"""
    labels: tuple[str, ...]
    """its classes, in the order of its logits"""
    mean: bool = False
    """whether the mean of the patches stands behind these rows, of those that are kept"""


@dataclass(frozen=True)
class Encoder:
    """A vision encoder as it is deployed: tower up to the feature layer, then the projector or the head."""

    family: str
    tower: Tower
    layer: int
    """number of layers in front of the features: the index into hidden_states, of several the deepest"""
    projector: nn.Module
    """[B, N, C] -> [B, N, D], row by row; or of a head"""
    normed: bool = False
    """whether the features are last_hidden_state, behind the final norm, instead of hidden_states[layer]"""
    groups: Tensor | None = None
    """[N, g] int64: the g patches, in the tower's order, whose features side by side are one token in front of the
    projector; None where each patch is a token"""
    pooling: Tensor | None = None
    """[N, P] float32: how the projected patches are averaged to tokens; None where they are not"""
    tiled: bool = False
    """whether the images of a batch are tiles of one image, which share its budget"""
    framed: bool = False
    """whether they are frames of one video, each with a budget of its own, but for a method that goes over frames"""
    tagged: bool = False
    """whether the prompt has tags between the tiles, so that each keeps its own share, whatever the method"""
    parts: str = ""
    """the layout of several images of a batch where they are tiles of one, without the whole image among them, so that
    one image is no tile; "" where they are images, or `tiled` says so"""
    layout: str = ""
    """how the tokens of tiles or frames are ordered for the language model, and what of the model's own is left out"""
    positions: Tensor | None = None
    """[3, N] int32: the place of each token in the language model's rotary positions (time, row, column)"""
    extras: Mapping[str, tuple[int, nn.Module]] = field(default_factory=dict)
    """further outputs by name: those hidden_states, kept and grouped like the features, behind this projector"""
    beside: tuple[int, ...] = ()
    """indices into hidden_states of several layers whose features, side by side, are C wide; none where it is one"""
    head: Head | None = None
    """what reads it, where it gives something else than tokens"""
    inside: Inside | None = None
    """how the sequence shortens on the way, where it does"""
    weighting: Mapping[int, Tensor] = field(default_factory=dict)
    """by layer, from 0: [N] float32, what a method takes the attention there times, position by position"""
    aligner: nn.Module | None = None
    """[B, N, C] -> [B, N, P], features to CLIP's joint space of images and texts; None where it is not known"""
    keyer: Keys | None = None
    """[B, N, D] -> [B, N, G * d], projected features to the keys of the language model's first layer; None where no
    method reads them"""
    prior: Prior | None = None
    """how what a device knows of each patch goes into what a method ranks by, where it does"""

    def in_tiles(self, count: int) -> Encoder:
        """As it is where a run takes so many images or tiles."""
        if count == 1 or not self.parts:
            return self
        return replace(self, tiled=True, tagged=True, layout=self.parts)

    def ports(self, own: Sequence[Port]) -> tuple[Port, ...]:
        """What the graph is given beside the pixels. own: of the method"""
        return (*own,) if self.prior is None else (*own, self.prior.port)

    def blank(self, ports: Sequence[Port], images: int) -> dict[str, Tensor]:
        """What stands in where nothing is given: name -> [B, ...] float32."""
        sizes = self._sizes() if ports else {}
        shapes = [[sizes[size] if isinstance(size, str) else size for size in port.shape] for port in ports]
        return {
            port.name: torch.full((images, *shape), port.blank or 0.0)
            for port, shape in zip(ports, shapes, strict=True)
        }

    def pooled(self, ports: Sequence[Port], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same of tiles that are one pool of candidates: what is of patches of all of them, else of the first."""
        return {
            port.name: given[port.name].flatten(0, 1).unsqueeze(0) if PATCHES in port.shape else given[port.name][:1]
            for port in ports
        }

    def _sizes(self) -> dict[str, int]:
        """What stands for what in the shape of a port."""
        features, tokens = self.widths
        sizes = {PATCHES: self.patches, **({TOKENS: tokens, LEARNED: tokens} if tokens else {})}
        if self.aligner is not None:
            with torch.no_grad():
                sizes[ALIGNED] = self.aligner(self._nothing(features)).shape[-1]
        if self.keyer is not None:
            sizes[QUERIES] = self.keyer.heads * self.keyer.head
        return sizes

    @property
    def widths(self) -> tuple[int, int]:
        """Of features in front of the projector, and of tokens behind it; 0 where a head stands in its place."""
        features = self.tower.width * (len(self.beside) or 1) * self.unit
        with torch.no_grad():
            return features, self.projector(self._nothing(features)).shape[-1] if self.head is None else 0

    def _nothing(self, width: int) -> Tensor:
        return torch.zeros(1, 1, width, dtype=next(self.tower.module.parameters()).dtype)

    @property
    def kind(self) -> str:
        """What it gives, of `edgeprune.bundle.KINDS`."""
        return "tokens" if self.head is None else self.head.kind

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes of its head, if it has one."""
        return () if self.head is None else self.head.labels

    @property
    def pools(self) -> bool:
        """Whether the tiles of an image may be one pool of candidates, of a method that makes one."""
        return self.tiled and not self.tagged

    @property
    def headed(self) -> bool:
        """Whether a head reads its last layer, so that every method has to drop inside."""
        return self.head is not None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens; each token is of one patch, of a square of them, or of about one."""
        rows, columns = self.tower.grid
        matrix = self.groups if self.pooling is None else self.pooling
        if matrix is None:
            return rows, columns
        side = round((rows * columns / len(matrix)) ** 0.5)
        return -(-rows // side), -(-columns // side)

    @property
    def patches(self) -> int:
        """N, the tokens without pruning."""
        return self.grid[0] * self.grid[1]

    @property
    def unit(self) -> int:
        """Patches of a token, side by side in front of the projector."""
        return 1 if self.groups is None else self.groups.shape[1]

    @property
    def candidates(self) -> int:
        """What a method chooses of: N, or the rows behind the last step."""
        return self.patches if self.inside is None else self.inside.rows

    @property
    def areas(self) -> Tensor | None:
        """[N, P] float32: the share that each patch of the tower has in each token; None where they are the same."""
        if self.groups is None:
            return self.pooling
        rows, columns = self.tower.grid
        return nn.functional.one_hot(self.groups, rows * columns).float().mean(dim=1)

    def arrange(self, patches: Tensor) -> Tensor:
        """Patches to tokens, in front of the projector: [B, P, C] -> [B, N, g * C]."""
        if self.groups is None:
            return patches
        return patches.index_select(1, self.groups.flatten()).reshape(
            -1, len(self.groups), self.groups.shape[1] * patches.shape[2]
        )

    def project(self, features: Tensor) -> Tensor:
        """[B, N, g * C] or, where projected patches are averaged, [B, P, C] -> [B, N, D]"""
        projected: Tensor = self.projector(features)
        return projected if self.pooling is None else self.pooling.to(projected.dtype) @ projected

    @property
    def sources(self) -> tuple[int, ...]:
        """Layers, from 0, whose outputs side by side are the features."""
        return tuple(layer - 1 for layer in self.beside or (self.layer,))

    def hidden(self, out: Any, fit: Callable[[Tensor], Tensor] = lambda hidden: hidden) -> Tensor:
        """What the tower gave at the feature layers, special tokens among them: [B, S, C]

        out: what `tower.module` returned
        fit: brings those of one layer to the tokens that the deepest has, where some were dropped in between
        """
        if self.normed:
            last: Tensor = out.last_hidden_state
            return last
        if not self.beside:
            one: Tensor = out.hidden_states[self.layer]
            return one
        return torch.cat([fit(out.hidden_states[layer]) for layer in self.beside], dim=-1)

    @property
    def features(self) -> str:
        """The name that transformers has for the features."""
        return "last_hidden_state" if self.normed else f"hidden_states{list(self.beside or (self.layer,))}"


def load(
    checkpoint: Checkpoint,
    layer: int | None = None,
    *,
    grid: tuple[int, int] | None = None,
    video: bool = False,
    size: tuple[int, int] | None = None,
    head: bool = False,
) -> Encoder:
    """The encoder of a checkpoint in float32.

    layer: index into hidden_states as in Hugging Face configs (-2, 23)
    grid: rows and columns of patches, of a family that takes any image size
    video: the way of a family that treats frames of a video differently
    size: height and width of images, of a family whose positions can be brought to another size
    head: with its classifier, of a family that has such: `logits` in place of tokens

    Raises ModelError when no family knows the checkpoint, when config.json and tensors do not fit each other, or when a
    tensor of the encoder would be left out, or it has no classifier; RequestError when the family takes no grid, size
    or head, or makes no difference between images and frames.
    """
    family = family_of(checkpoint.config, checkpoint.id)
    name, options = family.__name__.rpartition(".")[2], getattr(family, "OPTIONS", ())
    if layer is not None:
        catalog.check_layer(layer, checkpoint.config, checkpoint.id)
    detects = any(DETECTS in has for has in family.HAS.values())
    given: dict[str, Any] = {"grid": grid} if grid else {}
    given |= ({"video": True} if video else {}) | ({"size": size} if size else {}) | ({"head": True} if head else {})
    refusals = {
        "grid": "its image size is fixed" if "size" not in options else "give --size, in pixels",
        "video": "it treats frames as it does images",
        "size": "its image size is fixed" if "grid" not in options else "give --grid, in patches",
        "head": "no classifier of it is read" if not detects else "its heads are exported as they are",
    }
    for option, why in refusals.items():
        if option in given and option not in options:
            raise RequestError(f"{name} takes no --{option}: {why}; leave it out")
    if head and layer is not None:
        raise RequestError(f"the classifier of --head reads the last layer: --layer must be left out, got {layer}")
    with building(checkpoint.id):
        encoder: Encoder = family.load(checkpoint, layer, **given)
    return encoder


def families() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def _modules() -> Iterator[ModuleType]:
    for name in families():
        yield importlib.import_module(f"{__name__}.{name}")


def processors() -> dict[str, Processor]:
    """The image processors of all families: class of transformers without ImageProcessor -> what it means."""
    return {name: one for module in _modules() for name, one in getattr(module, "PROCESSORS", {}).items()}


def family_of(config: dict[str, Any], id: str) -> ModuleType:
    """The module of the family whose MODEL_TYPES hold the config's model_type. Raises ModelError when none does."""
    model_type = config.get("model_type")
    catalog.check_model_type(str(model_type), id)
    return next(module for module in _modules() if model_type in module.MODEL_TYPES)
