"""Time a plan of TensorRT with NVIDIA's own trtexec, and read what it says.

    compute   the GPU's time for one run, without transfers
    enqueue   the CPU's time to start one

trtexec comes with JetPack and with TensorRT's archives, in no package of the index. Its flags are the target's: until
TensorRT 11, CUDA graphs, spinning and runs without transfers are off unless asked for; then they are the default.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import EdgepruneError, RequestError
from edgeprune.targets import Target

__all__ = ["Timing", "Trtexec", "bench_flags", "find_trtexec", "parse_times", "release_of"]

LIMIT_S = 600
"""trtexec takes seconds; one that hangs must not hold up whoever waits for it"""

FLAGS = (
    "--useCudaGraph", "--useSpinWait", "--noDataTransfers",
    "--warmUp=500", "--duration=10", "--iterations=200", "--percentile=50,90,95,99",
)  # fmt: skip
"""for a plan whose target is a file of the user's own; TensorRT 11 takes and ignores the first three"""

BANNER = re.compile(r"\[TensorRT v(\d+)\]")


@dataclass(frozen=True)
class Timing:
    """Seconds of each run."""

    compute: tuple[float, ...]
    enqueue: tuple[float, ...]


@dataclass(frozen=True)
class Trtexec:
    path: Path
    version: str
    """as 10.3.0"""

    def time(self, plan: Path, flags: Sequence[str]) -> Timing:
        """Time a plan, over the runs that the flags ask for.

        Raises EdgepruneError with trtexec's first error when it cannot run the plan.
        """
        with tempfile.TemporaryDirectory() as scratch:
            times = Path(scratch) / "times.json"
            done = _run([os.fspath(self.path), f"--loadEngine={plan}", *flags, f"--exportTimes={times}"])
            if done.returncode or not times.is_file():
                raise EdgepruneError(f"{self.path} cannot time {plan}: {_first_error(done.stdout + done.stderr)}")
            return parse_times(times.read_text(encoding="utf-8"), _number(flags, "--warmUp", 200.0))


def find_trtexec(target: Target | None, environment: Mapping[str, str] = os.environ) -> Trtexec | None:
    """The trtexec to use: $TRTEXEC, else where the target's board has it, else the first in PATH; None without one.

    Raises RequestError when $TRTEXEC is no program.
    """
    named = environment.get("TRTEXEC")
    board = target.jetson.trtexec if target and target.jetson else None
    for place in filter(None, (named, board, "trtexec")):
        path = shutil.which(place, path=environment.get("PATH"))
        if path:
            said = _run([path, "--help"])
            return Trtexec(Path(path), release_of(said.stdout + said.stderr))
        if place == named:
            raise RequestError(f"TRTEXEC must be the path of trtexec, there is no program at {named}; unset it")
    return None


def bench_flags(target: Target | None, rounds: int | None = None) -> tuple[str, ...]:
    """trtexec's flags to time a plan of a target.

    rounds: exactly so many runs, instead of the seconds and runs that the target asks for
    """
    flags = (target.bench.flags if target else ()) or FLAGS
    if rounds is None:
        return tuple(flags)
    kept = [flag for flag in flags if not flag.startswith(("--duration=", "--iterations="))]
    return (*kept, "--duration=0", f"--iterations={rounds}")


def parse_times(text: str, warm_up_ms: float) -> Timing:
    """What --exportTimes writes: an array with an object for each run, of which computeMs, startComputeMs, startEnqMs
    and endEnqMs are read.

    Old releases write the runs of the warm-up, too: those that begin before its end are left out.

    Raises EdgepruneError when it is something else, or no run is left.
    """
    try:
        runs = [
            (1e-3 * run["computeMs"], 1e-3 * (run["endEnqMs"] - run["startEnqMs"]))
            for run in json.loads(text)
            if run["startComputeMs"] >= warm_up_ms
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise EdgepruneError(f"trtexec's times cannot be read ({type(error).__name__}: {error})") from None
    if not runs:
        raise EdgepruneError(f"trtexec timed no run after its warm-up of {warm_up_ms:g} ms; ask for more --rounds")
    return Timing(*(tuple(seconds) for seconds in zip(*runs, strict=True)))


def release_of(text: str) -> str:
    """The release in trtexec's first line: a number of two digits each for minor and patch, before TensorRT 10 of one
    and two. Empty without one.

    >>> release_of("&&&& RUNNING TensorRT.trtexec [TensorRT v8602] # trtexec --help")
    '8.6.2'
    >>> release_of("&&&& RUNNING TensorRT.trtexec [TensorRT v101303] [b9] # trtexec --help")
    '10.13.3'
    """
    banner = BANNER.search(text)
    if banner is None:
        return ""
    rest, patch = divmod(int(banner.group(1)), 100)
    major, minor = divmod(rest, 10 if rest < 100 else 100)
    return f"{major}.{minor}.{patch}"


def _number(flags: Sequence[str], name: str, otherwise: float) -> float:
    given = [flag.partition("=")[2] for flag in flags if flag.startswith(f"{name}=")]
    return float(given[-1]) if given else otherwise


def _first_error(text: str) -> str:
    errors = [line.partition("[E]")[2].strip() for line in text.splitlines() if "[E]" in line]
    return errors[0][:300] if errors else "it does not say why"


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EdgepruneError(f"{command[0]} cannot be run: {error}") from None
