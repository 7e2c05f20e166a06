"""COCO's mean average precision of detections, by pycocotools, against an annotation file or against samples.

The average over IoU 0.50:0.95 and over the classes, in percent. Every detection token counts as one detection with its
best class, as the papers of DETR and YOLOS have it. Classes go by their names: those that the annotations do not have
are left out, and regions that a COCO file marks as a crowd are ignored, as COCO does.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import MissingPackageError, RequestError
from edgeprune.probes.sample import Sample

__all__ = ["Boxes", "Truth"]

PLACES = {"mAP": 0, "mAP50": 1, "mAP75": 2}
"""in COCOeval's list of figures"""

Boxes = NDArray[np.float32]
"""of one image, [T, 6]: x0, y0, x1, y1 in pixels, score, number of the class"""


class Truth:
    """What is on the images, in COCO's form.

    images: the id of each image, in the order in which detections will be given

    Raises RequestError when there is no object on any of them, MissingPackageError without pycocotools.
    """

    def __init__(self, dataset: dict[str, Any], images: Sequence[int]) -> None:
        self.images = list(images)
        wanted = set(self.images)
        if not any(one["image_id"] in wanted for one in dataset["annotations"]):
            raise RequestError(f"images to judge on must have objects, and these {len(wanted)} have none; give others")
        self._coco = _coco(dataset)
        self._categories = {str(one["name"]): int(one["id"]) for one in dataset["categories"]}

    @classmethod
    def of_samples(cls, samples: Iterable[Sample], classes: Sequence[str]) -> Truth:
        """Of their boxes."""
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, sample in enumerate(samples, start=1):
            height, width = sample.size
            images.append({"id": number, "height": height, "width": width})
            for (x0, y0, x1, y1), label in zip(sample.boxes.tolist(), sample.labels.tolist(), strict=True):
                box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
                one = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, **box}
                annotations.append(one)
        categories = [{"id": at, "name": name} for at, name in enumerate(classes, start=1)]
        return cls(
            {"images": images, "annotations": annotations, "categories": categories}, [one["id"] for one in images]
        )

    @classmethod
    def of_file(cls, content: dict[str, Any], folder: Path, paths: Sequence[Path]) -> Truth:
        """Of these images of a COCO file; content: what is in it; folder: that of the images.

        Boxes without an area count with their own, and those without an extent are left out.
        """
        ids = {folder / str(one["file_name"]): int(one["id"]) for one in content["images"]}
        annotations: list[dict[str, Any]] = []
        for one in content["annotations"]:
            _, _, width, height = one["bbox"]
            if width > 0 and height > 0:
                filled = {"area": width * height, "iscrowd": 0, **one}
                annotations.append({**filled, "id": len(annotations) + 1})  # COCOeval takes 0 for none
        return cls({**content, "annotations": annotations}, [ids[path] for path in paths])

    def average_precision(self, boxes: Sequence[Boxes], classes: Sequence[str]) -> dict[str, float]:
        """`mAP`, `mAP50`, `mAP75` in percent. boxes: of each image; classes: names that its numbers stand for.

        Raises RequestError when no class has the name of one in the annotations.
        """
        from pycocotools.cocoeval import COCOeval

        category = np.array([self._categories.get(name, -1) for name in classes])
        if category.max() < 0:
            names = ", ".join([*self._categories][:5])
            raise RequestError(
                f"the detector must know classes of the annotations, which are {names}; it has "
                f"{', '.join(classes[:5])}: rename them in the annotations"
            )
        rows = [_rows(image, one, category) for image, one in zip(self.images, boxes, strict=True)]
        results = np.concatenate([np.zeros((0, 7)), *rows])
        if not len(results):
            return dict.fromkeys(PLACES, 0.0)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(self._coco, self._coco.loadRes(results), "bbox")
            evaluation.params.imgIds = self.images
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return {name: 100 * float(evaluation.stats[place]) for name, place in PLACES.items()}


def _rows(image: int, boxes: Boxes, category: NDArray[np.int64]) -> NDArray[np.float64]:
    """[n, 7]: image, x, y, width, height, score, category."""
    numbers = category[boxes[:, 5].astype(int)]
    corners = boxes[:, :4].astype(np.float64)
    columns = (np.full(len(boxes), image), corners[:, :2], corners[:, 2:] - corners[:, :2], boxes[:, 4], numbers)
    rows: NDArray[np.float64] = np.column_stack(columns)[numbers >= 0]
    return rows


def _coco(dataset: dict[str, Any]) -> Any:
    try:
        from pycocotools.coco import COCO
    except ModuleNotFoundError:
        raise MissingPackageError("pycocotools", "bavit") from None
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
    return truth
