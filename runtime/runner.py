"""A bundle that is open on a device: what all kinds of them have, whatever comes out."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeprune.bundle import Bundle, Manifest, TensorSpec
from edgeprune.errors import BundleError, ImageError, RequestError
from edgeprune.runtime.backends import Backend, Closed
from edgeprune.runtime.budgets import Budgets, Cut
from edgeprune.runtime.devices import AUTO, open_backend
from edgeprune.runtime.images.finite import check_finite
from edgeprune.runtime.images.preprocess import ImageLike, Preprocessing
from edgeprune.runtime.text import TextEncoder

__all__ = ["NEXT", "PIXELS", "STATE", "Given", "Images", "Runner", "check_tensors"]

Images: TypeAlias = "ImageLike | list[ImageLike] | tuple[ImageLike, ...] | NDArray[Any]"
Self = TypeVar("Self", bound="Runner")

PIXELS = "pixel_values"
"""the input that images become"""
Given: TypeAlias = "NDArray[Any] | str | list[str]"
"""what an input beside the images is given as; words where the bundle makes them a vector"""
STATE, NEXT = "state.", "next."
"""how the names of the inputs begin that are what the frame before left, and of the outputs that they come from"""


class Runner:
    """A bundle, open on a device. Thread-safe: ONNX Runtime keeps no state between calls, a plan takes turns.

    What a call returns is its kind's; `outputs` gives every kind's tensors by name. `close`, or the end of a `with`
    block, lets go of the memory that the graph holds, on the GPU as well.

    manifest: what the bundle is
    grid: patches (rows, columns)
    keep: tokens per image, K, or as many of them as were asked for
    preprocessing: image -> pixel_values
    session: the open graph or plan
    device: what runs it: tensorrt, cuda or cpu
    passed_over: under device "auto", the better ones that were not to be had -> why
    check_finite: whether NaN and infinities among pixel_values and other inputs are refused; False leaves the look out
    """

    check_finite = True
    OUTPUTS: ClassVar[tuple[str, ...]] = ()
    """the outputs by which a bundle is of this kind, in the order in which they are returned"""

    def __init__(self, bundle: Bundle, device: str = AUTO, threads: int | None = None, keep: int | None = None) -> None:
        """Raises as `edgeprune.runtime.load` does."""
        self.bundle, self.threads = bundle, threads
        self.manifest: Manifest = bundle.manifest
        self.grid = self.manifest.grid
        self.keep = self.manifest.keep if keep is None else keep
        self.preprocessing = Preprocessing.from_json(self.manifest.preprocessing)
        names = (*self.OUTPUTS, *(name for name in self.manifest.outputs if name not in self.OUTPUTS))
        self.session: Backend
        self.session, self.passed_over = open_backend(bundle, device, threads, names)
        self.device = self.session.device
        check_tensors(bundle.folder, self.manifest, self.session)
        if keep is not None:
            self.session = Cut(self.session, Budgets.of(self.manifest), keep)
        pixels = self.session.inputs[PIXELS]
        self._shape, self._dtype = pixels.shape, np.dtype(pixels.dtype)
        self._kept: dict[str, NDArray[Any]] | None = None

    def outputs(self, images: Images, **inputs: Given) -> dict[str, NDArray[Any]]:
        """Everything that the graph hands out for B images, by name.

        images: one image: a file name, a Pillow image of any mode, or RGB as uint8 [H, W, 3]; or
                a list or tuple of them, or uint8 [B, H, W, 3]: where the bundle's batch is fixed, B or more, which are
                then run in pieces of B, the last one filled up; or
                pixel_values, float32 or the graph's own dtype, of exactly the graph's shape [B, 3, H, W]; they pass
                unchanged, except that float32 is cast to float16 for a float16 graph.
        inputs: what else the graph takes, by name (`manifest.inputs`): [B, ...] or, the same for all images, [...]; a
                question in words, or a list of B, where the bundle brings its text side. Of what is left out
                `manifest.ports` says what stands in; without what the frame before left (`stream`) it is a first frame

        An encoder of tiles (`preprocessing.tiles`) takes one image and cuts it into its T tiles, as `tiles.py` says; as
        a list, it holds that one image. `edgeprune.runtime.images.tiles.packed` puts what is kept of them in order.
        A graph with uint8 input [B, H, W, 3] takes no pixel_values. uint8 arrays of exactly its H and W pass to it
        unchanged; any other image is resized and cropped.

        Raises ImageError when an image cannot be read, or does not fit, RequestError when an input is missing.
        """
        if not inputs and len(self.session.inputs) == 1:
            runs = [self.session.run({PIXELS: self.prepare(piece)}) for piece in self._pieces(images)]
            if len(runs) == 1:
                return runs[0]
            count = len(images)  # type: ignore[arg-type]  # several are a list, a tuple or an array
            return {name: np.concatenate([run[name] for run in runs])[:count] for name in runs[0]}
        return self.run({PIXELS: self.prepare(images), **inputs})

    def outputs_on_device(self, images: Images, **inputs: Given) -> dict[str, Any]:
        """`outputs` that stay where they are made, on a GPU if that runs the graph; `torch.from_dlpack` takes each.

        So a language model on the same GPU gets its tokens without a copy through the host. (On a GPU not run here.)

        Raises as `outputs` does, RequestError for a bundle that was opened with a smaller budget, and for a stream.
        """
        if self._kept is not None:
            raise RequestError("a stream keeps its state on the host; call outputs, or give the state yourself")
        return self.session.run_on_device(self._feeds({PIXELS: self.prepare(images), **inputs}))

    def run(self, feeds: Mapping[str, Given]) -> dict[str, NDArray[Any]]:
        """The same for all inputs by name, as the graph takes them; float32 is cast where it takes float16.

        Raises RequestError when an input is missing or there is no such one, ImageError when one does not fit.
        """
        gave = self.session.run(self._feeds(feeds))
        if self._kept is not None:
            self._kept = {STATE + name.removeprefix(NEXT): one for name, one in gave.items() if name.startswith(NEXT)}
        return gave

    def stream(self: Self) -> Self:
        """A video: the same encoder, which gives every frame what the one before it left. It begins with a first frame.

        Of a bundle whose steps keep something from frame to frame (inputs `state.*`, outputs `next.*`). It shares the
        graph; several videos are several streams, each of which one thread uses at a time.

        Raises RequestError where nothing is kept from frame to frame.
        """
        if not any(name.startswith(STATE) for name in self.session.inputs):
            raise RequestError(
                f"a stream needs a bundle whose steps keep something from frame to frame, this one of "
                f"{self.manifest.method} keeps nothing; call it image by image"
            )
        video = copy.copy(self)
        video._kept = {}
        return video

    def _feeds(self, feeds: Mapping[str, Given]) -> dict[str, NDArray[Any]]:
        return self._given(feeds, self.session.inputs, len(feeds.get(PIXELS, "1")))

    def asked(self, inputs: Mapping[str, Given], images: int) -> dict[str, NDArray[Any]]:
        """What so many images are given beside their pixels, as the graph takes it. Raises as `run` does."""
        specs = {name: spec for name, spec in self.session.inputs.items() if name != PIXELS}
        return self._given(inputs, specs, images)

    def _given(
        self, given: Mapping[str, Given], specs: Mapping[str, TensorSpec], images: int
    ) -> dict[str, NDArray[Any]]:
        feeds = {name: self._in_numbers(name, value) for name, value in given.items()}
        feeds = {**self._blank(feeds, specs, images), **feeds}
        if feeds.keys() != specs.keys():
            raise RequestError(f"the graph must be given {', '.join(specs)}; it was given {', '.join(feeds) or 'none'}")
        each = {name: self._for_each(name, value, images) for name, value in feeds.items()}
        return {name: self._checked(name, _cast(name, each[name], spec)) for name, spec in specs.items()}

    def _in_numbers(self, name: str, given: Any) -> NDArray[Any]:
        """A question in words as its vector, where the bundle brings what makes it one.

        Raises RequestError where it does not.
        """
        asked = [given] if isinstance(given, str) else given
        if not isinstance(asked, (list, tuple)) or not all(isinstance(one, str) for one in asked):
            values: NDArray[Any] = given
            return values
        port = self.manifest.ports.get(name, {})
        if "tower" not in port:
            raise RequestError(
                f"{name} must be numbers, [{', '.join(map(str, self.manifest.inputs[name].shape))}]: "
                f"{port.get('what', 'an input')}; the bundle brings nothing that makes words into them"
                if name in self.manifest.inputs
                else f"the graph takes no {name}"
            )
        return self._text_encoder([*asked], truncated=port["truncated"], unit=port["unit"])

    @functools.cached_property
    def _text_encoder(self) -> TextEncoder:
        return TextEncoder(self.bundle.folder, self.threads)

    def _for_each(self, name: str, values: NDArray[Any], images: int) -> NDArray[Any]:
        """Of a port that was given once, or without a leading dimension, the same for every image of the run."""
        if name not in self.manifest.ports:
            return values
        values = np.asarray(values)
        one = values[None] if values.ndim == len(self.session.inputs[name].shape) - 1 else values
        return np.repeat(one, images, axis=0) if images > 1 and len(one) == 1 else one

    def _blank(
        self, feeds: Mapping[str, NDArray[Any]], specs: Mapping[str, TensorSpec], images: int
    ) -> dict[str, NDArray[Any]]:
        """What stands in for what was not given: of a port what the manifest says, of the frame before 0, all of it.

        Raises RequestError where something has to be given.
        """
        blank: dict[str, NDArray[Any]] = {}
        for name, spec in specs.items():
            shape = [size if isinstance(size, int) else images for size in spec.shape]
            if name in feeds or name == PIXELS:
                continue
            if (port := self.manifest.ports.get(name)) is not None:
                if port["blank"] is None:
                    raise RequestError(
                        f"{name} must be given: {port.get('what', '')}; {self.manifest.method} chooses by it"
                    )
                if (other := port.get("beside")) in feeds:
                    raise RequestError(f"{name} must be given with {other}: {port.get('what', '')}")
                blank[name] = np.full(shape, port["blank"], spec.dtype)
            elif name.startswith(STATE) and not any(one.startswith(STATE) for one in feeds):
                blank[name] = np.zeros(shape, spec.dtype)
        return blank | {name: one for name, one in (self._kept or {}).items() if name in blank}

    def _pieces(self, images: Any) -> list[Images]:
        """More images than a run of a fixed batch takes, in pieces of B; all else as it is."""
        batch, specs = self._shape[0], self.session.outputs.values()
        array = isinstance(images, np.ndarray)
        several = images.dtype == np.uint8 and images.ndim == 4 if array else isinstance(images, (list, tuple))
        apart = self.preprocessing.tiles is None and all(spec.shape[:1] == (batch,) for spec in specs)
        if not (several and apart and isinstance(batch, int) and len(images) > batch):
            return [images]
        every = [*images, *[images[-1]] * (-len(images) % batch)]
        return [every[at : at + batch] for at in range(0, len(every), batch)]

    def prepare(self, images: Images) -> NDArray[Any]:
        """pixel_values of these images, as `outputs` takes them: [B, 3, H, W] float or [B, H, W, 3] uint8."""
        if isinstance(images, np.ndarray):
            if images.dtype == self._dtype and _fits(images.shape, self._shape):
                return self._checked(PIXELS, images)
            if images.dtype.kind == "f":
                return self._checked(PIXELS, self._pixel_values(images))
            single = images.ndim != 4
            chosen: list[Any] = [images] if single else list(images)
        elif isinstance(images, (list, tuple)):
            chosen = list(images)
        else:
            chosen = [images]
        cut = self.preprocessing.tiles is not None
        batch = 1 if cut else self._shape[0]
        if not chosen or (isinstance(batch, int) and len(chosen) != batch):
            wanted = batch if isinstance(batch, int) else "at least 1"
            remedy = "give one, which it cuts into tiles" if cut else "give a list of that length"
            raise ImageError(f"this encoder takes {wanted} images at a time, got {len(chosen)}; {remedy}")
        if cut and self._dtype == np.uint8:
            return self.preprocessing.tiled_pixels(chosen[0])
        if cut:
            return self.preprocessing.tiled(chosen[0]).astype(self._dtype, copy=False)
        return np.stack([self._prepared(image) for image in chosen])

    def close(self) -> None:
        """Let go of the graph. A second time, nothing happens; every other call is refused then."""
        if not isinstance(self.session, Closed):
            self.session.close()
            self.session = Closed(self.session.source)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        passed = "".join(f"; not {name}: {why}" for name, why in self.passed_over.items())
        where = "closed" if isinstance(self.session, Closed) else self.device + passed
        cut = "" if self.keep == self.manifest.keep else f", cut to {self.keep}"
        return f"<{type(self).__name__}: {self.manifest.method} keeps {self.manifest.budget}{cut}, {where}>"

    def _checked(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        return check_finite(name, values) if self.check_finite else values

    def _prepared(self, image: ImageLike) -> NDArray[Any]:
        if self._dtype != np.uint8:
            return self.preprocessing(image).astype(self._dtype, copy=False)
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == self._shape[1:]:
            return image
        return self.preprocessing.pixels(image)

    def _pixel_values(self, values: NDArray[Any]) -> NDArray[Any]:
        if self._dtype != np.uint8 and values.dtype == np.float32 and _fits(values.shape, self._shape):
            return values.astype(self._dtype)
        takes = "float32 or float16" if self._dtype == np.float16 else self._dtype.name
        shape = ", ".join(str(dim) for dim in self._shape)
        raise ImageError(
            f"an array for this encoder must be {takes} [{shape}], got {values.dtype} {list(values.shape)}; "
            "cast or reshape it, or give the image itself"
        )


def _cast(name: str, values: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """As the graph takes it. Raises ImageError when it does not fit."""
    if _fits(values.shape, spec.shape):
        if values.dtype == spec.dtype:
            return values
        if values.dtype == np.float32 and spec.dtype == "float16":
            return values.astype(np.float16)
    shape = ", ".join(map(str, spec.shape))
    raise ImageError(
        f"{name} must be {spec.dtype} [{shape}], got {values.dtype} {list(values.shape)}; cast or reshape it"
    )


def _fits(shape: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    """An open dimension takes any size but none."""
    if len(shape) != len(wanted):
        return False
    return all(one == other if isinstance(other, int) else one > 0 for one, other in zip(shape, wanted, strict=True))


def check_tensors(folder: Path, manifest: Manifest, session: Backend) -> None:
    """Raises BundleError when the graph and the manifest do not have the same tensors."""
    have = {**session.inputs, **session.outputs}
    said = {**manifest.inputs, **manifest.outputs}
    for name in (*have, *said):
        if not _same(have.get(name), said.get(name)):
            one, other = (_shown(specs.get(name)) for specs in (have, said))
            raise BundleError(
                f"{folder}: {name} is {one} in {session.source}, manifest.json says {other}; export the bundle again"
            )
    if PIXELS not in session.inputs:
        raise BundleError(f"{folder}: {session.source} must take {PIXELS}, it takes {', '.join(session.inputs)}")


def _same(one: TensorSpec | None, other: TensorSpec | None) -> bool:
    """An open dimension may have any name."""
    if one is None or other is None or one.dtype != other.dtype or len(one.shape) != len(other.shape):
        return False
    pairs = zip(one.shape, other.shape, strict=True)
    return all(a == b or (isinstance(a, str) and isinstance(b, str)) for a, b in pairs)


def _shown(spec: TensorSpec | None) -> str:
    return "nothing" if spec is None else f"{spec.dtype} [{', '.join(map(str, spec.shape))}]"
