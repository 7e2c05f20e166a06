"""Run a bundle: images in, kept tokens out. Needs numpy, Pillow and ONNX Runtime, or TensorRT for a plan; no torch.

encoder = load("out")
tokens, indices, scores = encoder("photo.jpg")
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeprune import bundle as bundles
from edgeprune.bundle import Bundle, Manifest
from edgeprune.errors import BundleError, ImageError, RequestError
from edgeprune.runtime.backends.ort import DEVICES, Backend, available_devices, open_session
from edgeprune.runtime.backends.plan import DEVICE as PLAN_DEVICE
from edgeprune.runtime.images.preprocess import ImageLike, Preprocessing

__all__ = ["Encoder", "Images", "Output", "Preprocessing", "available_devices", "load"]

Images: TypeAlias = "ImageLike | list[ImageLike] | tuple[ImageLike, ...] | NDArray[Any]"


class Output(NamedTuple):
    """What one run returns; the leading dimension is that of the images given."""

    tokens: NDArray[Any]
    """[B, K, D] float32 or float16 (`manifest.precision`), kept tokens in raster order"""
    indices: NDArray[np.int32]
    """[B, K] int32, which patches they are, ascending"""
    scores: NDArray[np.float32]
    """[B, N] float32, what the method ranked by; higher is kept"""


def load(folder: str | os.PathLike[str], device: str = "cpu", threads: int | None = None) -> Encoder:
    """Open the bundle in a folder, with every file checked against the manifest.

    device: "cpu" or "cuda" for the graph in ONNX Runtime; "tensorrt" for the plan of either kind that fits this machine
    threads: CPU threads of one run, None for ONNX Runtime's own choice; a plan has none

    The bundle of a detector gives an `edgeprune.runtime.detector.Detector`, which returns boxes and labels.

    Raises BundleError when it is no bundle or a damaged one, RequestError when the device cannot be used,
    MissingPackageError without onnxruntime where it is needed.
    """
    bundle = bundles.load(Path(folder))
    if bundle.manifest.detects:
        from edgeprune.runtime.detector import Detector

        return Detector(bundle, device, threads)
    return Encoder(bundle, device, threads)


class Encoder:
    """A bundle's encoder, open on a device. Thread-safe: ONNX Runtime keeps no state between calls, a plan takes turns.

    manifest: what the bundle is
    grid: patches (rows, columns)
    keep: tokens per image, K
    preprocessing: image -> pixel_values
    session: the open graph or plan
    """

    def __init__(self, bundle: Bundle, device: str = "cpu", threads: int | None = None) -> None:
        """Raises as `load` does."""
        self.manifest: Manifest = bundle.manifest
        self.grid = self.manifest.grid
        self.keep = self.manifest.keep
        self.preprocessing = Preprocessing.from_json(self.manifest.preprocessing)
        first = () if self.manifest.detects else Output._fields
        self._outputs = (*first, *(name for name in self.manifest.outputs if name not in first))
        self.session: Backend = _open(bundle, device, threads, self._outputs)
        self._shape = self.session.input_shape
        self._dtype = np.dtype(self._check_tensors(bundle.folder))
        self._run = self.session.run

    def __call__(self, images: Images) -> Output:
        """Encode B images, or the tiles of one: their tokens, indices and scores.

        images: one image: a file name, a Pillow image of any mode, or RGB as uint8 [H, W, 3]; or
                a list or tuple of them, or uint8 [B, H, W, 3]: exactly B where the bundle's batch is fixed; or
                pixel_values, float32 or the graph's own dtype, of exactly the graph's shape [B, 3, H, W]; they pass
                unchanged, except that float32 is cast to float16 for a float16 graph.

        An encoder of tiles (`preprocessing.tiles`) takes one image and cuts it into its T tiles, the whole image first;
        as a list, it holds that one image. `edgeprune.runtime.images.tiles.packed` puts what is kept of them in order.
        A graph with uint8 input [B, H, W, 3] takes no pixel_values. uint8 arrays of exactly its H and W pass to it
        unchanged; any other image is resized and cropped.

        Raises ImageError when an image cannot be read, or does not fit.
        """
        return Output(*self._run(self.prepare(images))[: len(Output._fields)])

    def outputs(self, images: Images) -> dict[str, NDArray[Any]]:
        """The same as `__call__` does, with everything that the graph hands out, by name. Raises as that does."""
        return dict(zip(self._outputs, self._run(self.prepare(images)), strict=True))

    def prepare(self, images: Images) -> NDArray[Any]:
        """What the graph is given for these images, as in `__call__`: [B, 3, H, W] float or [B, H, W, 3] uint8."""
        if isinstance(images, np.ndarray):
            if images.dtype == self._dtype and self._fits(images.shape):
                return images
            if images.dtype.kind == "f":
                return self._pixel_values(images)
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

    def _prepared(self, image: ImageLike) -> NDArray[Any]:
        if self._dtype != np.uint8:
            return self.preprocessing(image).astype(self._dtype, copy=False)
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == self._shape[1:]:
            return image
        return self.preprocessing.pixels(image)

    def _pixel_values(self, values: NDArray[Any]) -> NDArray[Any]:
        if self._dtype != np.uint8 and values.dtype == np.float32 and self._fits(values.shape):
            return values.astype(self._dtype)
        takes = "float32 or float16" if self._dtype == np.float16 else self._dtype.name
        shape = ", ".join(str(dim) for dim in self._shape)
        raise ImageError(
            f"an array for this encoder must be {takes} [{shape}], got {values.dtype} {list(values.shape)}; "
            "cast or reshape it, or give the image itself"
        )

    def _fits(self, shape: tuple[int, ...]) -> bool:
        batch = self._shape[0]
        return shape[1:] == self._shape[1:] and (shape[:1] == (batch,) if isinstance(batch, int) else shape[:1] > (0,))

    def _check_tensors(self, folder: Path) -> str:
        """The dtype of the input. Raises BundleError when graph and manifest name different tensors."""
        name, dtypes, source = self.session.input_name, self.session.dtypes, self.session.source
        stated = {**self.manifest.inputs, **self.manifest.outputs}
        for tensor in (name, *self.session.output_names):
            if tensor not in stated or stated[tensor].dtype != dtypes[tensor]:
                says = stated[tensor].dtype if tensor in stated else "nothing"
                raise BundleError(
                    f"{folder}: {tensor} is {dtypes[tensor]} in {source}, manifest.json says {says}; "
                    "export the bundle again"
                )
        shape = self.manifest.inputs[name].shape
        pairs = list(zip(shape, self._shape, strict=False))
        if len(shape) != len(self._shape) or any(a != b for a, b in pairs if isinstance(a, int) or isinstance(b, int)):
            raise BundleError(
                f"{folder}: {name} is {list(self._shape)} in {source}, manifest.json says {list(shape)}; "
                "export the bundle again"
            )
        return dtypes[name]


def _open(bundle: Bundle, device: str, threads: int | None, outputs: tuple[str, ...]) -> Backend:
    if device not in (known := (*DEVICES, PLAN_DEVICE)):
        raise RequestError(f"device must be one of {', '.join(known)}, got '{device}'")
    if device != PLAN_DEVICE:
        return open_session(bundle.path("encoder.onnx"), device, threads, outputs=outputs)
    from edgeprune.runtime.backends.plan_session import open_plan

    return open_plan(bundle, outputs)
