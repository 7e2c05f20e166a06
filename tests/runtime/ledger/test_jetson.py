"""What a Jetson says of itself. Its files and programs are played by a folder and by scripts that print what such
boards print (JetPack 5.1, 6.1 and 7.2 on Orin, 7.1 on Thor); none of this was run on a board."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from edgeprune.cli.tables.ledger import ledger_table
from edgeprune.errors import EdgepruneError
from edgeprune.runtime.ledger import jetson
from edgeprune.runtime.ledger.bench import bench
from edgeprune.runtime.ledger.jetson import (
    Board,
    Sample,
    identity,
    is_jetson,
    parse_clocks,
    parse_mode,
    parse_sample,
    watching,
)

MakeBundle = Callable[..., Path]

CLOCKS = """SOC family:tegra234  Machine:Jetson AGX Orin Developer Kit
Online CPUs: 0-11
cpu0: Online=1 Governor=schedutil MinFreq=729600 MaxFreq=2201600 CurrentFreq=1190400 IdleStates: WFI=1 c7=1
GPU MinFreq=1300500000 MaxFreq=1300500000 CurrentFreq=1300500000
EMC MinFreq=204000000 MaxFreq=3199000000 CurrentFreq=3199000000 FreqOverride=1
FAN Dynamic Speed control=active hwmon2_pwm1=55
NV Power Mode: MAXN
"""
BUSY = (
    "11-20-2026 12:00:00 RAM 6712/62841MB (lfb 12x4MB) SWAP 0/31420MB (cached 0MB) CPU [38%@2201,2%@729,off] "
    "EMC_FREQ 61%@3199 GR3D_FREQ 99%@[{mhz},{mhz}] NVDEC off cpu@57.125C soc2@55.093C gpu@{heat}C tj@57.1C "
    "VDD_GPU_SOC 7231mW/7231mW"
)


@pytest.mark.parametrize(
    ("line", "sample"),
    [
        ("EMC_FREQ 61%@2133 GR3D_FREQ 99%@612 VIC_FREQ 729 GPU@58C tj@58.5C", Sample(99, 612, 58.5)),  # 5.1
        (BUSY.format(mhz=1294, heat=58.5), Sample(99, 1294, 58.5)),  # 6.1
        ("GR3D_FREQ 0%@[0,0] CV0@-256C GPU@-256C tj@44.343C", Sample(0, None, 44.343)),  # asleep
        ("EMC_FREQ 25% GR3D_FREQ 88% CPU@58.5C", Sample(88, None, None)),  # without root
        ("GR3D_FREQ @[1575,1575,1575] gpu@52.968C/52.968C tj@53C/53C", Sample(None, 1575, 53.0)),  # Thor
        ("GR3D2_FREQ 99%@0", Sample(None, None, None)),
        ("", Sample(None, None, None)),
    ],
)
def test_a_line_of_tegrastats_is_read_whatever_the_release(line: str, sample: Sample) -> None:
    assert parse_sample(line) == sample


def test_the_clocks_are_those_of_the_gpu() -> None:
    assert parse_clocks(CLOCKS) == (1300, 1300)
    assert parse_clocks("Error: run with root privileges\n") is None


def test_the_power_mode_may_stand_behind_warnings() -> None:
    assert parse_mode("NVPM WARN: power mode is not set!\nNV Power Mode: MODE_15W_6CORE\n2\n") == "MODE_15W_6CORE"
    assert parse_mode("NVPM ERROR: Error opening /etc/nvpmodel.conf\n") == ""


class Root:
    """The files of an AGX Orin with JetPack 6.2, and its programs in a folder of their own, which is the path."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.bin = folder / "root", folder / "bin"
        self.bin.mkdir(parents=True)
        self.fifo = folder / "all lines are out"
        os.mkfifo(self.fifo)
        self.file("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic")
        self.file("proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0")
        self.gpu("17000000.gpu", 306, 1300, 1300)
        self.throttle("cpu-throttle-alert", 0, 0)
        self.throttle("gpu-throttle-alert", 1, 0)
        self.throttle("pwm-fan", 2, 3)
        for alarm in (1, 2, 3):
            self.file(f"sys/class/hwmon/hwmon3/oc{alarm}_event_cnt", "37")
        self.program("nvpmodel", "echo 'NV Power Mode: MAXN'; echo 0")
        self.program("jetson_clocks", f"cat <<'END'\n{CLOCKS}END")
        self.tegrastats([BUSY.format(mhz=1300, heat=58.5)] * 3)
        monkeypatch.setenv("PATH", f"{self.bin}{os.pathsep}{os.environ['PATH']}")

    def file(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def gpu(self, name: str, lowest: int, highest: int, now: int) -> None:
        for file, mhz in (("min_freq", lowest), ("max_freq", highest), ("cur_freq", now)):
            self.file(f"sys/class/devfreq/{name}/{file}", f"{mhz}000000")

    def throttle(self, kind: str, number: int, state: int) -> None:
        self.file(f"sys/class/thermal/cooling_device{number}/type", kind)
        self.file(f"sys/class/thermal/cooling_device{number}/cur_state", str(state))

    def program(self, name: str, body: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.bin / name).chmod(0o755)

    def tegrastats(self, lines: list[str]) -> None:
        """Prints the lines, opens the pipe, and goes on until it is ended, as tegrastats does."""
        printed = "\n".join(lines)
        self.program("tegrastats", f"cat <<'END'\n{printed}\nEND\n: > '{self.fifo}'\nexec tail -f /dev/null")

    def measured(self, during: Callable[[], object] = lambda: None) -> Board:
        with watching(self.root) as watch:
            self.fifo.read_text()  # returns once the lines are out
            during()
        assert watch.board
        return watch.board


@pytest.fixture
def orin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Root:
    return Root(tmp_path, monkeypatch)


def test_the_state_of_the_board_is_written_down(orin: Root) -> None:
    board = orin.measured()
    assert board == Board(
        model="NVIDIA Jetson AGX Orin Developer Kit",
        l4t="36.4.3",
        power_mode="MAXN",
        gpu_mhz=1300,
        gpu_limit_mhz=1300,
        locked=True,
        celsius=58.5,
    )
    board.check()


def test_a_gpu_below_the_clock_that_its_mode_allows_is_throttled(orin: Root) -> None:
    orin.tegrastats([BUSY.format(mhz=mhz, heat=97) for mhz in (1300, 918, 918)])
    with pytest.raises(EdgepruneError) as refused:
        orin.measured().check()
    assert str(refused.value) == (
        "throttled, so this is no result: the GPU ran at 918 MHz, power mode MAXN allows 1300; `sudo nvpmodel -m 0 && "
        "sudo jetson_clocks`, let it cool down or give it more current, and measure again"
    )
    assert refused.value.exit_code == 1
    orin.measured().check(gpu=False)  # it was not the GPU that was measured


def test_a_low_power_mode_is_a_result_and_stands_in_it(orin: Root) -> None:
    orin.program("nvpmodel", "echo 'NV Power Mode: MODE_15W'; echo 2")
    orin.program("jetson_clocks", "echo 'GPU MinFreq=306000000 MaxFreq=612000000 CurrentFreq=612000000'")
    orin.tegrastats([BUSY.format(mhz=611, heat=45)])
    board = orin.measured()
    assert (board.power_mode, board.gpu_mhz, board.gpu_limit_mhz, board.locked) == ("MODE_15W", 611, 612, False)
    board.check()


def test_an_idle_gpu_may_be_slow(orin: Root) -> None:
    idle = "GR3D_FREQ 3%@[306,306] tj@44C"
    orin.tegrastats([idle, idle, BUSY.format(mhz=1300, heat=50), idle])
    assert orin.measured().gpu_mhz == 1300


def test_thermal_throttling_is_an_alarm_and_a_turning_fan_is_not(orin: Root) -> None:
    orin.throttle("gpu-throttle-alert", 1, 1)
    with pytest.raises(EdgepruneError, match="no result: the kernel says gpu-throttle-alert; "):
        orin.measured().check()


def test_an_alarm_of_the_current_counts_when_it_came_during_the_run(orin: Root) -> None:
    orin.measured().check()  # 37 of each since the board was started
    board = orin.measured(lambda: orin.file("sys/class/hwmon/hwmon3/oc3_event_cnt", "41"))
    with pytest.raises(EdgepruneError, match=r"no result: 4 times too high a peak of current \(oc3\); "):
        board.check()


def test_without_root_the_clocks_come_from_the_kernels_files(orin: Root) -> None:
    orin.program("jetson_clocks", "echo 'Error: run with root privileges' >&2; exit 1")
    orin.tegrastats(["GR3D_FREQ 99% tj@51C"])
    orin.gpu("17000000.gpu", 306, 1300, 1020)
    board = orin.measured()
    assert (board.gpu_mhz, board.gpu_limit_mhz, board.locked) == (1020, 1300, False)
    with pytest.raises(EdgepruneError, match="the GPU ran at 1020 MHz"):
        board.check()


def test_thor_keeps_its_clock_elsewhere(orin: Root) -> None:
    orin.program("jetson_clocks", "exit 1")
    for path in (orin.root / "sys/class/devfreq/17000000.gpu").iterdir():
        path.unlink()
    orin.gpu("gpu-gpc-0", 1575, 1575, 1575)
    (orin.root / "sys/class/devfreq/17000000.gpu").rmdir()
    orin.tegrastats(["GR3D_FREQ @[1575,1575,1575] gpu@53C tj@52C"])
    board = orin.measured()
    assert (board.gpu_mhz, board.gpu_limit_mhz, board.locked, board.celsius) == (1575, 1575, True, 53)


def test_a_board_without_its_programs_is_watched_by_its_files(orin: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with watching(orin.root) as watch:
        orin.throttle("soc0-throttle-alert", 7, 1)
    assert watch.board
    assert (watch.board.power_mode, watch.board.gpu_limit_mhz, watch.board.celsius) == ("unknown", 1300, None)
    assert watch.board.alarms == ("the kernel says soc0-throttle-alert",)


def test_the_watch_ends_with_the_block_even_when_that_fails(orin: Root) -> None:
    def fail() -> None:
        raise ValueError("as it happens")

    before = threading.active_count()
    with pytest.raises(ValueError, match="as it happens"):
        orin.measured(fail)
    assert threading.active_count() == before


def test_any_other_machine_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*command: str) -> str:
        raise AssertionError(f"{command} was called")

    monkeypatch.setattr(jetson, "_output", never)
    monkeypatch.setattr(jetson, "_tegrastats", never)
    with watching(tmp_path) as watch:
        pass
    assert watch.board is None
    assert not is_jetson(tmp_path)


def test_a_container_on_a_board_is_known_by_the_device_tree(tmp_path: Path) -> None:
    model = tmp_path / "proc/device-tree/model"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    assert is_jetson(tmp_path)
    model.write_bytes(b"Raspberry Pi 5 Model B\0")
    assert not is_jetson(tmp_path)


def measurable(make_bundle: MakeBundle) -> Path:
    return make_bundle(cost={"formula": 1_000_000, "graph": 1_000_000})


def test_bench_writes_the_board_into_the_ledger(
    orin: Root, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    orin.program("tegrastats", "exec tail -f /dev/null")
    monkeypatch.setattr("edgeprune.runtime.ledger.bench.watching", partial(watching, orin.root))
    ledger = bench(measurable(make_bundle), rounds=1)
    board = json.loads(json.dumps(ledger.to_json()))["board"]
    assert (board["power_mode"], board["gpu_limit_mhz"], board["locked"]) == ("MAXN", 1300, True)
    caption = str(ledger_table(ledger).caption)
    assert "NVIDIA Jetson AGX Orin Developer Kit, L4T 36.4.3, power mode MAXN, " in caption
    assert "clocks locked; no throttling seen." in caption


def test_bench_refuses_to_call_a_throttled_run_a_result(
    orin: Root, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    orin.program("tegrastats", "exec tail -f /dev/null")
    orin.throttle("cpu-throttle-alert", 0, 1)
    monkeypatch.setattr("edgeprune.runtime.ledger.bench.watching", partial(watching, orin.root))
    with pytest.raises(EdgepruneError, match="throttled, so this is no result: the kernel says cpu-throttle-alert"):
        bench(measurable(make_bundle), rounds=1)


def test_a_board_says_who_it_is(orin: Root) -> None:
    assert identity(orin.root) == ("NVIDIA Jetson AGX Orin Developer Kit", "36.4.3", "")
    orin.program("dpkg-query", "printf '6.2+b77'")
    assert identity(orin.root)[2] == "6.2"
