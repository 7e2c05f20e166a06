"""libedgeprune.so through ctypes: the functions of edgeprune.h, as tests call them."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.bundle import MANIFEST, Manifest, describe_files

OK, WRONG_REQUEST, BAD_BUNDLE, BAD_IMAGE, NO_DEVICE, FAILED = range(6)
AUTO, CPU, CUDA, TENSORRT, ORT_TENSORRT, ORT_TENSORRT_RTX = range(6)
DTYPES = {1: "float32", 2: "float16", 3: "uint8", 4: "int8", 5: "int32", 6: "int64", 7: "bool"}

LOG = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p)


class Options(ctypes.Structure):
    _fields_ = (
        ("struct_nbytes", ctypes.c_size_t),
        ("device", ctypes.c_int),
        ("gpu", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("keep", ctypes.c_int32),
        ("skip_hashes", ctypes.c_int32),
        ("skip_finite", ctypes.c_int32),
        ("split", ctypes.c_int32),
        ("onnxruntime", ctypes.c_char_p),
        ("log", LOG),
        ("log_context", ctypes.c_void_p),
    )


class Info(ctypes.Structure):
    _fields_ = (
        ("struct_nbytes", ctypes.c_size_t),
        *((name, ctypes.c_char_p) for name in ("method", "model", "precision", "device", "source")),
        *((name, ctypes.c_int32) for name in ("batch", "tiles", "pooled", "grid_rows", "grid_columns", "keep")),
        *((name, ctypes.c_int32) for name in ("nested", "detects", "height", "width")),
        *((name, ctypes.c_size_t) for name in ("image_nbytes", "seen_nbytes", "inputs", "outputs", "labels")),
    )


class Tensor(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_int),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * 8),
        ("nbytes", ctypes.c_size_t),
    )


class Buffer(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("nbytes", ctypes.c_size_t))


class Detection(ctypes.Structure):
    _fields_ = (
        ("score", ctypes.c_float),
        ("label", ctypes.c_int32),
        *((name, ctypes.c_float) for name in ("left", "top", "right", "bottom")),
    )


class Class(ctypes.Structure):
    _fields_ = (("probability", ctypes.c_float), ("label", ctypes.c_int32))


class Failure(Exception):
    """A function returned another status than OK; its text is that of edgeprune_error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def onnxruntime_library() -> Path:
    """The library inside the package onnxruntime: the same one that Python's runtime calls."""
    import onnxruntime

    return next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))


def buffers(arrays: Mapping[str, NDArray[Any]]) -> Any:
    """The C array of their memory, which the arrays keep."""
    given = [Buffer(name.encode(), value.ctypes.data, value.nbytes) for name, value in arrays.items()]
    return (Buffer * len(given))(*given)


def seal(folder: Path) -> None:
    """Write the manifest of a bundle whose files were changed."""
    manifest = Manifest.from_json((folder / MANIFEST).read_text(encoding="utf-8"))
    sealed = dataclasses.replace(manifest, files=describe_files(folder))
    (folder / MANIFEST).write_text(sealed.to_json(), encoding="utf-8")


class Library:
    """edgeprune.h. `raw` is the ctypes library, whose functions return a status."""

    def __init__(self, build: Path) -> None:
        self.raw = ctypes.CDLL(str(next(build.rglob("libedgeprune.so"))))
        handle, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
        for name in ("edgeprune_error", "edgeprune_version", "edgeprune_label"):
            getattr(self.raw, name).restype = text
        several = (ctypes.POINTER(Buffer), size, ctypes.POINTER(Buffer), size)
        for name, arguments in {
            "error": (handle,),
            "open": (text, ctypes.POINTER(Options), ctypes.POINTER(handle)),
            "close": (handle,),
            "get_info": (handle, ctypes.POINTER(Info)),
            "get_input": (handle, size, ctypes.POINTER(Tensor)),
            "get_output": (handle, size, ctypes.POINTER(Tensor)),
            "find": (handle, text, ctypes.POINTER(Tensor)),
            "label": (handle, size),
            "run": (handle, *several),
            "encode": (handle, handle, size, handle, size),
            "select": (handle, handle, size, *several),
            "first_frame": (handle,),
            "run_cuda": (handle, *several, handle),
            "preprocess": (handle, handle, size, size, size, handle, size),
            "detect": (handle, handle, size, handle, size, size, size, ctypes.c_float, handle, size, handle),
            "classify": (handle, handle, size, handle, size),
            "tile_order": (handle, handle, size, size, size, handle, size),
        }.items():
            getattr(self.raw, f"edgeprune_{name}").argtypes = arguments

    def open(self, folder: Path | str | bytes, log: list[str] | None = None, **options: Any) -> Handle:
        """`log` takes what the library says on the way. Raises Failure."""
        given = Options(struct_nbytes=ctypes.sizeof(Options), onnxruntime=bytes(onnxruntime_library()))
        for name, value in options.items():
            setattr(given, name, value)
        say = LOG(lambda _, text: log.append(text.decode()) if log is not None else None)
        given.log = say
        handle = ctypes.c_void_p(1)
        path = folder if isinstance(folder, bytes) else str(folder).encode()
        status = self.raw.edgeprune_open(path, ctypes.byref(given), ctypes.byref(handle))
        if status:
            assert handle.value is None
            raise Failure(status, self.raw.edgeprune_error(None).decode())
        return Handle(self, handle)


class Handle:
    """An open bundle; the end of a `with` block closes it."""

    def __init__(self, library: Library, handle: ctypes.c_void_p) -> None:
        self.raw, self.handle = library.raw, handle

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.edgeprune_close(self.handle)
        self.handle = ctypes.c_void_p()

    def check(self, status: int) -> None:
        """Raises Failure unless the status is OK."""
        if status:
            raise Failure(status, self.raw.edgeprune_error(self.handle).decode())

    def info(self) -> Info:
        info = Info(struct_nbytes=ctypes.sizeof(Info))
        self.check(self.raw.edgeprune_get_info(self.handle, ctypes.byref(info)))
        return info

    def tensors(self, kind: str) -> dict[str, Tensor]:
        """By name; kind: "input" or "output"."""
        found = {}
        for at in range(getattr(self.info(), f"{kind}s")):
            tensor = Tensor()
            self.check(getattr(self.raw, f"edgeprune_get_{kind}")(self.handle, at, ctypes.byref(tensor)))
            found[tensor.name.decode()] = tensor
        return found

    def empty(self, batch: int = 1, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Memory for outputs, all of them or those named; batch: of an open one."""
        made = {}
        for name, tensor in self.tensors("output").items():
            shape = [size or batch for size in tensor.shape[: tensor.rank]]
            made[name] = np.full(shape, 77, DTYPES[tensor.dtype])
        return {name: made[name] for name in names or made}

    def run_into(self, feeds: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> None:
        """Raises Failure."""
        given, wanted = buffers(feeds), buffers(outputs)
        self.check(self.raw.edgeprune_run(self.handle, given, len(given), wanted, len(wanted)))

    def encode(self, pixels: NDArray[Any]) -> NDArray[np.int64]:
        """What the pixels decide, in memory that is new. Raises Failure."""
        batch = 1 if self.tensors("input")["pixel_values"].shape[0] else len(pixels)
        seen = np.full(batch * self.info().seen_nbytes // 8, 77, np.int64)
        self.check(
            self.raw.edgeprune_encode(self.handle, pixels.ctypes.data, pixels.nbytes, seen.ctypes.data, seen.nbytes)
        )
        return seen

    def select(
        self, seen: NDArray[Any], feeds: Mapping[str, NDArray[Any]], names: Sequence[str] | None = None, batch: int = 1
    ) -> dict[str, NDArray[Any]]:
        """The outputs, all or those named, in memory that is new. Raises Failure."""
        outputs = self.empty(batch, names)
        given, wanted = buffers(feeds), buffers(outputs)
        memory = (seen.ctypes.data, seen.nbytes)
        self.check(self.raw.edgeprune_select(self.handle, *memory, given, len(given), wanted, len(wanted)))
        return outputs

    def classify(self, logits: NDArray[Any], capacity: int) -> list[tuple[float, int]]:
        """logits: of one image -> (probability, label) as they were written. Raises Failure."""
        found = (Class * capacity)(*[Class(-1.0, -1)] * capacity)
        self.check(self.raw.edgeprune_classify(self.handle, logits.ctypes.data, logits.nbytes, found, capacity))
        return [(one.probability, one.label) for one in found]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs, in memory that is new. Raises Failure."""
        outputs = self.empty(len(next(iter(feeds.values()))))
        self.run_into(feeds, outputs)
        return outputs
