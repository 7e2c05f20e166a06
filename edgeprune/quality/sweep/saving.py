"""What a sweep leaves in its folder: table.md, table.csv, sweep.json, and a plot for each axis."""

from __future__ import annotations

import json
import os
from pathlib import Path

from edgeprune.errors import RequestError
from edgeprune.quality.sweep.plots import PLOTS, plot
from edgeprune.quality.sweep.request import RESULT
from edgeprune.quality.sweep.rows import Sweep
from edgeprune.quality.sweep.texts import to_csv, to_markdown

__all__ = ["save"]


def save(sweep: Sweep, folder: Path) -> tuple[Path, ...]:
    """Write them, each all at once, in place of those of an earlier run -> their paths.

    Raises RequestError when the disk does not take them, MissingPackageError without matplotlib.
    """
    texts = {
        "table.md": to_markdown(sweep),
        "table.csv": to_csv(sweep),
        RESULT: json.dumps(sweep.to_json(), indent=2) + "\n",
    }
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            scratch = folder / f".{name}"
            scratch.write_text(text, encoding="utf-8")
            os.replace(scratch, folder / name)
            written.append(folder / name)
        for name in PLOTS:
            path, scratch = folder / f"{name}.svg", folder / f".{name}.svg"
            if plot(sweep, name, scratch):
                os.replace(scratch, path)
                written.append(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise RequestError(f"{folder} cannot be written: {error.strerror}; choose another --output") from None
    return tuple(written)
