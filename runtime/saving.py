"""One file, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from edgeprune.errors import RequestError

__all__ = ["save"]


def save(output: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Beside the output first, so that there is never half a file under its name, and nothing else when it fails.

    write: called with the open file

    Raises RequestError when it cannot be written; `output` is then as it was.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{output.name}.", suffix=output.suffix, dir=output.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
            os.chmod(name, 0o644)  # mkstemp's is for its owner alone
            os.replace(name, output)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise RequestError(f"{output} cannot be written: {error.strerror or error}; choose another --output") from None
