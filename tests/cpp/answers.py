"""What the C library answers beyond edgeprune.h: runtime/cpp/tests/answers.cpp."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

__all__ = ["Ask", "asking", "raw"]

Ask: TypeAlias = Callable[[str, list[bytes]], list[bytes]]
"""(what, texts without NUL) -> an answer to each"""


def raw(build: Path, *words: str | Path, given: bytes = b"") -> bytes:
    command = [str(build / "tests" / "answers"), *map(str, words)]
    return subprocess.run(command, input=given, stdout=subprocess.PIPE, check=True).stdout


def asking(build: Path) -> Ask:
    def ask(what: str, asked: list[bytes]) -> list[bytes]:
        found = raw(build, what, given=b"".join(one + b"\0" for one in asked)).split(b"\0")
        assert len(found) == len(asked) + 1
        return found[:-1]

    return ask
