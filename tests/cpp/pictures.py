"""`tests/pictures` of the C library, kept running: what it makes of images, tiles and detections."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.runtime.images.preprocess import Preprocessing

WRONG_REQUEST, BAD_BUNDLE, BAD_IMAGE = 1, 2, 3
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def steps(size: tuple[int, int] = (24, 24), **given: Any) -> Preprocessing:
    """Of CLIP, without a resize, where nothing else is said."""
    fields: dict[str, Any] = {
        "resize": None,
        "resample": 3,
        "crop": None,
        "rescale": 1 / 255,
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
        "convert_rgb": True,
    }
    return Preprocessing(size=size, **{**fields, **given})


class Refused(Exception):
    """A status of edgeprune.h, and the line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status, self.line = status, line


class Pictures:
    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, line: str, *sent: bytes) -> bytes:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"".join((line.encode(), b"\n", *sent)))
        self.process.stdin.flush()
        answer = self.process.stdout.readline().decode()
        first, _, rest = answer.removesuffix("\n").partition(" ")
        assert answer, f"the program died of {line!r}"
        if first != "ok":
            raise Refused(int(first), rest)
        return self.process.stdout.read(int(rest))

    def pixels(self, steps: Preprocessing, image: NDArray[np.uint8], dtype: str = "float32") -> NDArray[Any]:
        """image: [H, W, 3], rows with gaps where it is a part of a larger one -> as `Preprocessing` makes it."""
        height, width = image.shape[:2]
        assert image.strides[1:] == (3, 1)
        reach = (height - 1) * image.strides[0] + 3 * width
        rows = np.lib.stride_tricks.as_strided(image, (reach,), (1,)).tobytes()
        made = self.raw(steps.to_json(), width, height, image.strides[0], dtype, rows)
        (down, across), tiles = steps.size, () if steps.tiles is None else (steps.tiles.count,)
        shape = (down, across, 3) if dtype == "uint8" else (3, down, across)
        return np.frombuffer(made, dtype).reshape((*tiles, *shape))

    def raw(
        self, steps: Any, width: int, height: int, stride: int = 0, dtype: str = "uint8", rows: bytes = b""
    ) -> bytes:
        text = json.dumps(steps).encode()
        return self.ask(f"pixels {len(text)} {width} {height} {stride} {dtype}", text, rows)

    def shape(self, steps: Preprocessing, height: int, width: int) -> tuple[int, int]:
        text = json.dumps(steps.to_json()).encode()
        rows, columns = np.frombuffer(self.ask(f"shape {len(text)} {width} {height}", text), np.int32).tolist()
        return rows, columns

    def order(
        self,
        indices: NDArray[np.int32],
        grid: tuple[int, int],
        shape: tuple[int, int],
        squeezed: bool,
        whole: bool = True,
    ) -> NDArray[np.int32]:
        numbers = (*indices.shape, *grid, *shape, int(squeezed), int(whole))
        return np.frombuffer(self.ask("order " + " ".join(map(str, numbers)), indices.tobytes()), np.int32)

    def detect(
        self, logits: NDArray[Any], boxes: NDArray[Any], size: tuple[int, int], threshold: float
    ) -> NDArray[np.void]:
        """Of one image -> a record of score, label and box for each that was found."""
        fields = np.dtype([("score", "<f4"), ("label", "<i4"), ("box", "<f4", 4)])
        numbers = (*logits.shape, size[1], size[0], threshold, logits.dtype.name)
        made = self.ask("detect " + " ".join(map(str, numbers)), logits.tobytes(), boxes.tobytes())
        return np.frombuffer(made, fields)

    def seconds(self, steps: Preprocessing, image: NDArray[np.uint8], dtype: str, times: int) -> NDArray[np.float64]:
        """Of a core, of each time."""
        text = json.dumps(steps.to_json()).encode()
        line = f"time {len(text)} {image.shape[1]} {image.shape[0]} {dtype} {times}"
        return np.frombuffer(self.ask(line, text, image.tobytes()), np.float64)

    def close(self) -> None:
        self.process.communicate()
