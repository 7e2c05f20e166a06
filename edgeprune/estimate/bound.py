"""What pruning can gain at most in front of a language model, before anything is built: an estimate.

    encoder      the multiply-adds that the bundle's manifest promises, pruned and unpruned
    prefill      the multiply-adds of the language model, with K and with N image tokens and some text
    decode       every matrix of the language model and its KV cache are read once for each token
    time         the larger of 2 * multiply-adds / FLOPs of the target and bytes / bandwidth of the target

The figures of a target are its peaks in float16. Times on the device are longer; what carries over is their ratio. Of a
target that lacks a figure no time is said, and the ratio is that of the multiply-adds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edgeprune.bundle import Manifest
from edgeprune.errors import BundleError
from edgeprune.estimate.language_model import FLOAT16_NBYTES, LanguageModel
from edgeprune.targets import Target

__all__ = ["TEXT_TOKENS", "Bound", "Side", "bound"]

TEXT_TOKENS = 64
"""of a short question beside the image"""


@dataclass(frozen=True)
class Side:
    """What one run costs with so many image tokens; a time is None where the target lacks a figure."""

    image_tokens: int
    encoder: int
    """multiply-adds by the formula, projector included"""
    prefill: int
    """multiply-adds of the language model"""
    kv_nbytes: int
    """of image and text tokens"""
    encoder_ms: float | None
    prefill_ms: float | None
    decode_ms: float | None
    """of the first token behind the prompt"""

    @property
    def first_token_ms(self) -> float | None:
        return None if self.encoder_ms is None or self.prefill_ms is None else self.encoder_ms + self.prefill_ms

    @property
    def cost(self) -> float:
        """Up to the first token: milliseconds, or multiply-adds where there are no times."""
        return self.encoder + self.prefill if self.first_token_ms is None else self.first_token_ms

    @property
    def encoder_share(self) -> float:
        return self.encoder_cost / self.cost

    @property
    def encoder_cost(self) -> float:
        """Milliseconds, or multiply-adds where there are no times."""
        return self.encoder if self.first_token_ms is None or self.encoder_ms is None else self.encoder_ms


@dataclass(frozen=True)
class Bound:
    target: str
    language_model: str
    parameters: int
    """of the language model"""
    text_tokens: int
    unpruned: Side
    pruned: Side
    floor: Side
    """the pruned encoder, and a prompt without any image token"""
    missing: tuple[str, ...]
    """what the target's file does not say; with any of it missing no time is estimated"""
    memory_gib: int | None
    """of the target, None where it has no GPU"""
    inside: str = ""
    """what shortens the encoder on the way, a reducer or the method itself; empty where nothing does"""

    @property
    def ratio(self) -> float:
        """Pruned over unpruned up to the first token, in time, or in multiply-adds where there are no times."""
        return self.pruned.cost / self.unpruned.cost

    @property
    def floor_ratio(self) -> float:
        """The same with no image token kept, which no budget gets below."""
        return self.floor.cost / self.unpruned.cost

    @property
    def encoder_ratio(self) -> float:
        """Pruned over unpruned, of the encoder alone, in time or multiply-adds."""
        return self.pruned.encoder_cost / self.unpruned.encoder_cost

    @property
    def encoder_saves(self) -> float:
        """The encoder's part of what is saved up to the first token; the rest is the prefill's. 0 where nothing is."""
        saved = self.unpruned.cost - self.pruned.cost
        return (self.unpruned.encoder_cost - self.pruned.encoder_cost) / saved if saved else 0.0

    @property
    def weights_gib(self) -> float:
        """Of the language model in float16."""
        return FLOAT16_NBYTES * self.parameters / (1 << 30)

    @property
    def fits(self) -> bool:
        """Whether the weights are smaller than the target's memory, as far as that is known."""
        return self.memory_gib is None or self.weights_gib < self.memory_gib

    def to_json(self) -> dict[str, Any]:
        names = ("ratio", "floor_ratio", "encoder_ratio", "encoder_saves", "weights_gib", "fits")
        given = asdict(self)
        for name in ("unpruned", "pruned", "floor"):
            side: Side = getattr(self, name)
            given[name] |= {"first_token_ms": side.first_token_ms, "encoder_share": side.encoder_share}
        return {"label": "estimate", **given, **{name: getattr(self, name) for name in names}}


def bound(
    manifest: Manifest,
    model: LanguageModel,
    target: Target | None,
    text_tokens: int = TEXT_TOKENS,
    keep: int | None = None,
) -> Bound:
    """Estimate what a bundle's pruning gains in front of a language model.

    target: the bundle's, None where its file is not at hand
    text_tokens: of the prompt, beside the image
    keep: of the kept tokens those that go on to it, where kept sets nest; None for all

    Raises BundleError when the manifest does not say what the encoder costs.
    """
    for key in ("formula", "unpruned_formula"):
        if key not in manifest.cost:
            raise BundleError(f"the manifest's cost must say {key}, and does not; export the bundle again")
    every, kept = _image_tokens(manifest, manifest.keep if keep is None else keep)
    peaks, missing = _peaks(manifest, target)
    files = (manifest.encoder.file, f"{manifest.encoder.file}.data")
    encoder_nbytes = sum(manifest.files[name].size for name in files if name in manifest.files)
    if manifest.precision == "float32":
        encoder_nbytes //= 2  # with a time only where the builder makes it float16

    def side(image_tokens: int, encoder: int) -> Side:
        tokens = image_tokens + text_tokens
        return Side(
            image_tokens=image_tokens,
            encoder=encoder,
            prefill=model.prefill(tokens),
            kv_nbytes=model.kv_nbytes(tokens),
            encoder_ms=_ms(encoder, encoder_nbytes, peaks),
            prefill_ms=_ms(model.prefill(tokens), model.read_nbytes, peaks),
            decode_ms=_ms(model.prefill(1), model.read_nbytes + model.kv_nbytes(tokens), peaks),
        )

    return Bound(
        target=manifest.target,
        language_model=model.name,
        parameters=model.parameters,
        text_tokens=text_tokens,
        unpruned=side(every, manifest.cost["unpruned_formula"]),
        pruned=side(kept, manifest.cost["formula"]),
        floor=side(0, manifest.cost["formula"]),
        missing=missing,
        memory_gib=target.gpu.memory_gib if target and target.gpu else None,
        inside=str(manifest.inside.get("reducer", manifest.method if manifest.steps else "")),
    )


def _image_tokens(manifest: Manifest, keep: int) -> tuple[int, int]:
    """(all, kept) of one run; the tiles of an image may be one pool of candidates."""
    tiles = manifest.tiles
    return manifest.patches * tiles, keep if manifest.pooled else keep * tiles


def _peaks(manifest: Manifest, target: Target | None) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """(FLOPs, bytes) per second where the target says both, and what it does not say."""
    if target is None:
        return None, ("its file",)
    if target.gpu is None:
        return None, ("[gpu]",)
    tflops, bandwidth_gb_s = target.gpu.tflops_fp16, target.gpu.bandwidth_gb_s
    missing = ["[gpu] tflops_fp16"] if tflops is None else []
    missing += ["[gpu] bandwidth_gb_s"] if bandwidth_gb_s is None else []
    if manifest.precision != "float16" and target.engine.typing != "weak_fp16":
        missing.append(f"a figure for {manifest.precision} graphs")
    if tflops is None or bandwidth_gb_s is None or missing:
        return None, tuple(missing)
    return (tflops * 1e12, bandwidth_gb_s * 1e9), ()


def _ms(multiply_adds: int, nbytes: int, peaks: tuple[float, float] | None) -> float | None:
    if peaks is None:
        return None
    flops_s, bytes_s = peaks
    return 1e3 * max(2 * multiply_adds / flops_s, nbytes / bytes_s)
