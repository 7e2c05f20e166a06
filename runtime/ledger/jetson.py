"""On a Jetson: what state the board was in while something was measured, and whether it held back.

    power mode    nvpmodel -q
    clocks        jetson_clocks --show, which asks for root; else the files of the GPU's clock, which do not
    load, heat    a line of tegrastats every quarter of a second, while the measurement runs
    alarms        files of the kernel: thermal throttling now, and how often the board was short of current so far

A run is throttled when an alarm came, or when the GPU, under load, kept well below the clock that its mode allows.
On any other machine nothing is read, and no program is called.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeprune.errors import EdgepruneError

__all__ = [
    "Board",
    "Sample",
    "Watch",
    "identity",
    "is_jetson",
    "parse_clocks",
    "parse_mode",
    "parse_sample",
    "watching",
]

INTERVAL_MS = 250
LOADED = 50
"""per cent of load from which on a sample of the GPU's clock counts: an idle GPU is slow for good reason"""
HELD = 0.95
"""of the allowed clock; a clock that is held there reads a little below it"""
REMEDY = "`sudo nvpmodel -m 0 && sudo jetson_clocks`, let it cool down or give it more current, and measure again"

_MODEL, _RELEASE = "proc/device-tree/model", "etc/nv_tegra_release"
_L4T = re.compile(r"R(\d+).*?REVISION: *([\d.]+)")
_MODE = re.compile(r"NV Power Mode:\s*(\S.*)")
_GPU = re.compile(r"^GPU MinFreq=(\d+) MaxFreq=(\d+) CurrentFreq=(\d+)", re.MULTILINE)
_LOAD = re.compile(r"\bGR3D_FREQ (?:(\d+)%)?(?:@\[?([\d,]+))?")
_HEAT = re.compile(r"\b(?:tj|gpu)@(-?[\d.]+)C", re.IGNORECASE)


@dataclass(frozen=True)
class Sample:
    """What tegrastats said at one time; None where it did not."""

    load: int | None
    """of the GPU, per cent"""
    mhz: int | None
    """of the GPU"""
    celsius: float | None
    """of the hottest of junction and GPU"""


@dataclass(frozen=True)
class Board:
    """The state of a Jetson while something was measured."""

    model: str
    l4t: str
    """release of the board's software, as 36.4.3"""
    power_mode: str
    gpu_mhz: int | None
    """median of the GPU's clock under load; None where it could not be seen"""
    gpu_limit_mhz: int | None
    """what the power mode allows"""
    locked: bool | None
    """whether the clock was held at its limit, as jetson_clocks does"""
    celsius: float | None
    """the most"""
    alarms: tuple[str, ...] = ()

    def check(self, gpu: bool = True) -> None:
        """Raises EdgepruneError, with what was seen and the remedy, when the run was throttled.

        gpu: whether the GPU was to work; if not, its clock says nothing
        """
        seen = list(self.alarms)
        if gpu and self.gpu_mhz is not None and self.gpu_limit_mhz and self.gpu_mhz < HELD * self.gpu_limit_mhz:
            seen.append(f"the GPU ran at {self.gpu_mhz} MHz, power mode {self.power_mode} allows {self.gpu_limit_mhz}")
        if seen:
            raise EdgepruneError(f"throttled, so this is no result: {'; '.join(seen)}; {REMEDY}")


@dataclass
class Watch:
    """Filled while a block runs; `board` is there when it has ended."""

    board: Board | None = None


@dataclass
class _Readings:
    clocks: list[tuple[int | None, int]] = field(default_factory=list)
    """(load of the GPU, MHz)"""
    celsius: list[float] = field(default_factory=list)
    throttled: set[str] = field(default_factory=set)


def is_jetson(root: Path = Path("/")) -> bool:
    """Whether this machine is one, by what NVIDIA's software or the device tree says."""
    return (root / _RELEASE).is_file() or "jetson" in _text(root / _MODEL).lower()


def identity(root: Path = Path("/")) -> tuple[str, str, str]:
    """(model, L4T, JetPack) of a board, as ("NVIDIA Jetson Orin NX", "36.4.3", "6.2"); empty what it does not say."""
    jetpack = _output("dpkg-query", "--show", "--showformat=${Version}", "nvidia-jetpack")
    return _text(root / _MODEL), _l4t(root), jetpack.partition("+")[0].strip()


def _l4t(root: Path) -> str:
    release = _L4T.search(_text(root / _RELEASE))
    return ".".join(release.groups()) if release else ""


@contextmanager
def watching(root: Path = Path("/")) -> Iterator[Watch]:
    """Watch the board while the block runs. On a machine that is no Jetson `board` stays None."""
    watch = Watch()
    if not is_jetson(root):
        yield watch
        return
    mode = parse_mode(_output("nvpmodel", "-q"))
    clocks = parse_clocks(_output("jetson_clocks", "--show")) or _clock_files(root)  # before any throttling lowers them
    before, readings, done = _over_current(root), _Readings(), threading.Event()
    stats = _tegrastats()
    thread = threading.Thread(target=_follow, args=(root, stats, readings, done), daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        if stats is not None:
            stats.kill()
            stats.wait()
        thread.join()
    watch.board = _board(root, mode, clocks, readings, _alarms(readings, before, _over_current(root)))


def parse_mode(text: str) -> str:
    """The power mode's name, from `nvpmodel -q`; empty where it says none.

    >>> parse_mode("NVPM WARN: fan mode is not set!\\nNV Power Mode: MAXN\\n0\\n")
    'MAXN'
    """
    mode = _MODE.search(text)
    return mode.group(1).strip() if mode else ""


def parse_clocks(text: str) -> tuple[int, int] | None:
    """(lowest, highest) clock that the GPU may take now, in MHz, from `jetson_clocks --show`; None where it says none.

    >>> parse_clocks("GPU MinFreq=306000000 MaxFreq=1300500000 CurrentFreq=306000000\\nEMC MinFreq=204000000")
    (306, 1300)
    """
    clock = _GPU.search(text)
    return (int(clock.group(1)) // 1_000_000, int(clock.group(2)) // 1_000_000) if clock else None


def parse_sample(line: str) -> Sample:
    """A line of tegrastats. The clock of a GPU of several clusters is the fastest one's; 0 is one that sleeps.

    JetPack 5 writes `99%@612`, 6 and 7 `99%@[612,0]`, without root some `99%`, and Thor `@[1000,1000,1000]`.

    >>> parse_sample("RAM 6712/7620MB EMC_FREQ 61%@2133 GR3D_FREQ 99%@[612,0] gpu@58.5C tj@57.1C VDD_IN 7231mW/8535mW")
    Sample(load=99, mhz=612, celsius=58.5)
    """
    load = _LOAD.search(line)
    clocks = [int(one) for one in load.group(2).split(",") if one] if load and load.group(2) else []
    heat = [float(one) for one in _HEAT.findall(line)]
    busy = load.group(1) if load else None
    return Sample(None if busy is None else int(busy), max(clocks, default=0) or None, max(heat, default=None))


def _follow(root: Path, stats: subprocess.Popen[str] | None, readings: _Readings, done: threading.Event) -> None:
    """Fill the readings: at every line of tegrastats, or without it as often, and at the end."""
    lines: Iterable[str] = stats.stdout if stats is not None and stats.stdout else _ticks(done)
    for line in lines:
        sample = parse_sample(line)
        mhz = sample.mhz or _current_mhz(root)
        if mhz is not None:
            readings.clocks.append((sample.load, mhz))
        if sample.celsius is not None:
            readings.celsius.append(sample.celsius)
        readings.throttled |= _throttling(root)
    readings.throttled |= _throttling(root)  # a short run may end before the first line


def _ticks(done: threading.Event) -> Iterator[str]:
    while not done.wait(INTERVAL_MS / 1e3):
        yield ""


def _tegrastats() -> subprocess.Popen[str] | None:
    path = shutil.which("tegrastats")
    if path is None:
        return None
    command = [path, "--interval", str(INTERVAL_MS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace")


def _board(
    root: Path, mode: str, clocks: tuple[int, int] | None, readings: _Readings, alarms: tuple[str, ...]
) -> Board:
    loaded = [mhz for load, mhz in readings.clocks if load is None or load >= LOADED]
    return Board(
        model=_text(root / _MODEL),
        l4t=_l4t(root),
        power_mode=mode or "unknown",
        gpu_mhz=round(statistics.median(loaded)) if loaded else None,
        gpu_limit_mhz=clocks[1] if clocks else None,
        locked=clocks[0] == clocks[1] if clocks else None,
        celsius=max(readings.celsius, default=None),
        alarms=alarms,
    )


def _alarms(readings: _Readings, before: dict[str, int], after: dict[str, int]) -> tuple[str, ...]:
    heat = [f"the kernel says {name}" for name in sorted(readings.throttled)]
    short = [
        f"{after[name] - count} times {_OVER_CURRENT.get(name, name)}"
        for name, count in sorted(before.items())
        if after.get(name, count) > count
    ]
    return (*heat, *short)


# docs.nvidia.com/jetson/archives/r36.3/DeveloperGuide: Platform Power and Performance, Jetson Orin
_OVER_CURRENT = {
    "oc1": "too low a voltage (oc1)",
    "oc2": "too high an average current (oc2)",
    "oc3": "too high a peak of current (oc3)",
}


def _over_current(root: Path) -> dict[str, int]:
    """How often each alarm came since the board was started."""
    counts: dict[str, int] = {}
    for path in sorted((root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt")):
        count = _text(path)
        if count.isdigit():
            counts[path.name.removesuffix("_event_cnt")] = int(count)
    return counts


def _throttling(root: Path) -> set[str]:
    """The alarms of the thermal driver that are on."""
    devices = (root / "sys/class/thermal").glob("cooling_device*")
    return {
        name
        for device in devices
        if (name := _text(device / "type")).endswith("-throttle-alert") and _text(device / "cur_state") not in ("", "0")
    }


def _gpu_folder(root: Path) -> Path | None:
    """Where the kernel has the GPU's clock: 17000000.ga10b in JetPack 5, 17000000.gpu from 6 on, gpu-gpc-0 on Thor."""
    folders: list[Path] = []
    for pattern in ("*.gpu", "*.ga10b", "gpu-gpc-*"):
        folders += sorted((root / "sys/class/devfreq").glob(pattern))
    return folders[0] if folders else None


def _clock_files(root: Path) -> tuple[int, int] | None:
    folder = _gpu_folder(root)
    limits = [_text(folder / name) for name in ("min_freq", "max_freq")] if folder else []
    if not limits or not all(limit.isdigit() for limit in limits):
        return None
    lowest, highest = (int(limit) // 1_000_000 for limit in limits)
    return lowest, highest


def _current_mhz(root: Path) -> int | None:
    folder = _gpu_folder(root)
    clock = _text(folder / "cur_freq") if folder else ""
    return int(clock) // 1_000_000 if clock.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().strip("\0").strip()
    except OSError:
        return ""


def _output(*command: str) -> str:
    """What a program of the board prints; empty where there is none, or it fails, as without root."""
    path: Any = shutil.which(command[0])
    if path is None:
        return ""
    arguments: Sequence[str] = [path, *command[1:]]
    try:
        done = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
