"""What every verb has in common: help, JSON, errors, exit codes.

`tests/golden/help.txt` holds the help of every verb, 80 columns wide. After a wanted change of it, write it again:

    python -m tests.cli.test_main > tests/golden/help.txt
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from tests.covering import always

EXPORT = ("export", "--method", "fastervlm")
SCENE = Path(__file__).parents[2] / "edgeprune" / "models" / "tiny" / "scenes" / "scene00.png"
Done = Any
Run = Callable[..., Any]
Process = Callable[..., Any]
Said = Callable[..., str]


ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "help.txt"
VERBS = (
    "export",
    "build",
    "audit",
    "verify",
    "diff",
    "bench",
    "assemble",
    "ask",
    "sweep",
    "show",
    "report",
    "inspect",
    "methods",
    "targets",
    "doctor",
    "runtime-source",
    "convert",
    "calibrate",
    "adapt",
    "train",
    "bavit",
)
BAVIT = ("train", "finetune", "eval")


def test_no_table_is_wider_than_80_columns_or_cuts_anything_off(run: Run, exported: tuple[Path, Done]) -> None:
    folder = exported[0]
    for verb in (["inspect", folder], ["methods"], ["targets"], ["targets", "jetson-orin"], ["verify", folder]):
        out = run(*verb).out
        assert max(map(len, out.splitlines())) <= 80, verb
        assert "…" not in out, verb


def test_json_goes_to_stdout_alone_and_parses(run: Run, exported: tuple[Path, Done]) -> None:
    folder = exported[0]
    keys: dict[tuple[object, ...], set[str]] = {
        ("verify", folder): {"passed", "backends"},
        ("bench", folder, "--rounds", 1): {"rows", "parts", "formula", "device", "threads", "rounds", "versions"},
        ("show", folder, SCENE): {"picture", "size", "view"},
        ("report", folder, "--no-bench"): {"report", "bytes"},
        ("inspect", folder): {"schema_version", "method", "keep", "grid", "model", "graphs", "cost", "files"},
        ("targets", "cpu"): {"name", "description", "tier", "source", "onnx", "engine", "gpu"},
    }
    for verb, wanted in keys.items():
        done = run(*verb, "--json")
        assert (done.code, done.err) == (0, ""), verb
        assert wanted <= json.loads(done.out).keys(), verb
    assert {"name", "does", "reads", "needs", "paper"} <= json.loads(run("methods", "--json").out)[0].keys()
    cells = json.loads(run("methods", "--matrix", "--json").out)
    assert {"encoder": "siglip", "tower": "", "method": "fastervlm", "refused": "no [CLS]"} in cells
    assert {"cpu", "jetson-orin"} <= {target["name"] for target in json.loads(run("targets", "--json").out)}


WRONG: dict[tuple[object, ...], str] = {
    (*EXPORT, "--keep", 0): r"keep must be in 1\.\.144 for 144 patches, got 0",
    (*EXPORT, "--keep", -1): r"keep must be in 1\.\.144 for 144 patches, got -1",
    (*EXPORT, "--keep", 145): r"keep must be in 1\.\.144 for 144 patches, got 145",
    (
        *EXPORT,
        "--keep",
        "x",
    ): r"'--keep': 'x' is neither a number of tokens, such as 64, nor a share of them",
    (*EXPORT, "--keep"): r"Option '--keep' requires an argument \(see",
    EXPORT: r"--keep must say how many of the 144 patches to keep \(1\.\.144\); it is missing",
    ("export", "--keep", 4): r"Missing option '--method' \(see edgeprune export --help\)",
    ("export", "--method", "fastervml", "--keep", 4): r"no method 'fastervml'; .* Did you mean 'fastervlm'\?",
    ("export", "--method", "flowcutt", "--keep", 4): r"no method 'flowcutt'; .* Did you mean 'flowcut'\?",
    ("export", "--method", "zero-tprune", "--keep", 4, "--inside", "tome"): (
        "--method zero-tprune shortens the encoder itself, got --inside tome as well; .* --inside zero_tprune"
    ),
    (
        "export",
        "--method",
        "tome",
    ): r"--keep must say how many of the 144 patches tome leaves \(1\.\.143\); it is",
    ("export", "--method", "tome", "--keep", 144): r"keep must be in 1\.\.143 for the steps of tome .*, got 144",
    ("export", "--method", "tome", "--keep", 9): (
        "tome merges up to 50% of the rows at a step, 43 to 22 or more, got 9 behind layer 4; take more steps, or keep"
    ),
    ("export", "--method", "tome", "--keep", 64, "--schedule", "2:80"): (
        "--keep must be the 80 tokens that the last step of --schedule leaves, got 64; leave one of the two out"
    ),
    ("export", "--method", "tome", "--keep", 64, "--schedule", "2:80", "--encoder-cost", 0.5): (
        "--method tome needs either --encoder-cost, .*; got both"
    ),
    ("export", "--method", "tome", "--keep", 64, "--option", "score=cls"): (
        "option score is of the reducers cells, .*; got --method tome, whose options are bias, metric; leave it"
    ),
    ("export", "--method", "tome", "--keep", 64, "--calibrate", "scenes"): (
        "--calibrate goes with --keep auto, --option position=fitted, or what takes numbers of images: flowcut"
    ),
    ("export", "--method", "flowcut", "--keep", 64, "--calibrate", "nowhere"): (
        "--calibrate must be a folder with images; there is no folder nowhere"
    ),
    ("export", "--method", "tome", "--keep", "auto", "--floor", 0.9, "--schedule", "2:80"): (
        "--keep auto tries budgets, and --schedule names one; give --keep a number"
    ),
    (*EXPORT, "--keep", 4, "--inside", "cells", "--schedule", "official"): (
        "--schedule official needs a reducer whose paper has a fixed one, .*; got cells and 5; give layers:tokens"
    ),
    (*EXPORT, "--keep", 4, "--inside", "cells", "--schedule", "2:80", "--option", "score=colum"): (
        r"no score 'colum'; have auto, cls, .* Did you mean 'column'"
    ),
    (*EXPORT, "--keep", 4, "--inside", "tome", "--schedule", "2:60"): (
        "tome merges up to 50% of the rows at a step, 144 to 72 or more, got 60 behind layer 2; take more steps"
    ),
    ("export", "--method", "none", "--keep", 4): r"none keeps all 144 patches, got keep 4; leave --keep out",
    (*EXPORT, "--keep", 4, "--target", "jetson-orion"): r"no target 'jetson-orion'; .* Did you mean 'jetson-orin'\?",
    (*EXPORT, "--keep", 4, "--target", "my.toml"): r"my\.toml cannot be read: No such file",
    (*EXPORT, "--keep", 4, "--tiles", 0): r"--tiles must be at least 1, got 0",
    (*EXPORT, "--keep", 4, "--tiles", 2, "--dynamic-batch"): r"--tiles 2 fixes the batch and --dynamic-batch frees it",
    (*EXPORT, "--keep", 4, "--precision", "float64"): r"'float64' is not one of 'float32', 'float16'",
    (*EXPORT, "--keep", 4, "--layer", 99): r"layer must be in 1\.\.6 or -6\.\.-1 for 6 layers, got 99",
    (*EXPORT, "--keep", 4, "--layer", 0): r"layer must be in 1\.\.6",
    (*EXPORT, "--keep", 4, "--probes", "."): r"--probes must be a folder with images .*; \. has none",
    (*EXPORT, "--keep", 4, "--probes", "nowhere"): r"--probes must be a folder with images; there is no folder nowhere",
    (*EXPORT, "--keep", 4, "--model", "nowhere"): r"--model must be a folder or a Hugging Face id .* nowhere",
    (*EXPORT, "--keep", 4, "--model", "."): r"\. has no config\.json; give a folder as save_pretrained\(\) writes it",
    (*EXPORT, "--keep", 4, "--model", ""): r"--model must be a folder or a Hugging Face id",
    (*EXPORT, "--keep", 4, "--revision", "main"): r"--revision goes with a Hugging Face id",
    (*EXPORT, "--keep", 4, "--output", "."): r"\. exists; choose another --output",
    (*EXPORT, "--keep", 4, "--output", ".", "--force"): r"\. exists and is not a bundle, so --force does not",
    (*EXPORT, "--keep", 4, "--output", "/dev/null/out"): r"/dev/null/out cannot be written: Not a directory",
    (*EXPORT, "--ratio", 4): r"No such option:? '?--ratio'?.* \(see edgeprune export --help\)",
    ("exprot",): r"no command 'exprot'; have .* Did you mean 'export'\? \(see edgeprune --help\)",
    ("verify",): r"Missing argument 'BUNDLE' \(see edgeprune verify --help\)",
    ("verify", "."): r"\. is not a bundle: it has no readable manifest\.json; make one with `edgeprune export`",
    ("inspect", "nowhere"): r"nowhere is not a bundle",
    ("bench", SCENE): r"scene00\.png is not a bundle",
    ("show", ".", SCENE): r"\. is not a bundle",
    ("verify", ".", "--threads", 0): r"'--threads': 0 is not in the range x>=1",
    ("verify", ".", "--device", "tpu"): r"'tpu' is not one of 'cpu', 'cuda'",
    ("targets", "jetson"): r"no target 'jetson'; have .*Did you mean 'jetson-",
    ("targets", "nowhere.toml"): r"nowhere\.toml cannot be read",
}


ALIKE = {
    (*EXPORT, "--keep", 0),
    (*EXPORT, "--keep", -1),
    (*EXPORT, "--keep", 4, "--layer", 0),
    (*EXPORT, "--keep", 4, "--probes", "."),
    (*EXPORT, "--keep", 4, "--model", ""),
    ("export", "--method", "tome"),
    ("export", "--method", "tome", "--keep", 144),
    ("export", "--method", "tome", "--keep", "auto", "--floor", 0.9, "--schedule", "2:80"),
    (*EXPORT, "--keep", 4, "--inside", "tome", "--schedule", "2:60"),
    ("export", "--method", "tome", "--keep", 64, "--calibrate", "scenes"),
    (*EXPORT, "--keep", 4, "--inside", "cells", "--schedule", "official"),
}
"""said by what says another of them, and not before the model is read"""


@pytest.mark.parametrize(
    "arguments",
    always([(words,) for words in WRONG], *((words,) for words in WRONG if words not in ALIKE)),
    ids=lambda arguments: " ".join(map(str, arguments)),
)
def test_a_wrong_request_is_refused_in_one_line(
    run: Run, desk: Path, arguments: tuple[object, ...], said: Said
) -> None:
    assert re.search(WRONG[arguments], said(run(*arguments)))
    assert os.listdir(desk) == []


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("--keep", 145), marks=pytest.mark.slow),
        ("--keep", 4, "--target", "x"),
        pytest.param(("--keep", 4, "--model", "no/where"), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_fresh_process_says_no_more_than_that_line(
    desk: Path, tmp_path: Path, arguments: tuple[object, ...], said: Said, process: Process
) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    said(process(*EXPORT, *arguments, **offline))
    assert os.listdir(desk) == []


def test_python_m_edgeprune_is_the_same_program(desk: Path, said: Said, module: Process) -> None:
    assert said(module("inspect", "nowhere")).startswith("nowhere is not a bundle")
    assert module("inspect", "--help").out.startswith("Usage: edgeprune inspect [OPTIONS] BUNDLE\n")


def test_what_was_not_foreseen_is_one_line_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeprune import catalog

    def broken() -> None:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(catalog, "methods", broken)
    assert run("methods") == (
        1,
        "",
        "edgeprune: unexpected ZeroDivisionError: first line second line; run it again with --debug and report it\n",
    )


def test_debug_shows_the_traceback(module: Process) -> None:
    done = module("inspect", "nowhere", "--debug")
    assert done.code == 1
    assert done.err.startswith("Traceback")
    assert "BundleError: nowhere is not a bundle" in done.err


def help_of(*verb: str) -> str:
    from edgeprune.cli import cli

    text = io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(text):
        patched.setenv("COLUMNS", "80")
        cli.main([*verb, "--help"], prog_name="edgeprune", standalone_mode=False)
    return text.getvalue()


def all_help() -> str:
    texts = [
        f"$ {' '.join(['edgeprune', *verb, '--help'])}\n{help_of(*verb)}"
        for verb in ([], *([v] for v in VERBS), *(["bavit", v] for v in BAVIT))
    ]
    return "\n".join(texts)


def test_help_is_what_was_agreed_on() -> None:
    # in a process of its own: click keeps the help option that a verb had when it was first called, by itself maybe
    words = [sys.executable, "-m", "tests.cli.test_main"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == GOLDEN.read_text(encoding="utf-8")


def test_help_cuts_nothing_off_and_fits_80_columns() -> None:
    text = GOLDEN.read_text(encoding="utf-8")
    assert not [line for line in text.splitlines() if line.endswith("...") and not line.startswith("Usage:")]
    assert max(map(len, text.splitlines())) <= 80


def test_every_verb_has_an_example_json_and_debug() -> None:
    from edgeprune.cli import cli
    from edgeprune.cli.bavit import command as bavit

    context = click.Context(cli, **cli.context_settings)
    assert tuple(cli.list_commands(context)) == VERBS
    assert sorted(bavit.list_commands(context)) == sorted(BAVIT)
    verbs = {name: cli.get_command(context, name) for name in VERBS if name != "bavit"}
    for name, verb in {**verbs, **{f"bavit {name}": bavit.get_command(context, name) for name in BAVIT}}.items():
        assert verb is not None, name
        assert f"\n    edgeprune {name}" in (verb.help or "").replace("\b", "    "), name
        assert {"as_json", "debug"} <= {option.name for option in verb.params}, name


def test_without_a_verb_the_help_is_printed(run: Run) -> None:
    done = run()
    assert (done.code, done.err) == (0, "")
    assert done.out == run("--help").out == run("-h").out


def test_the_version_is_printed(run: Run) -> None:
    from edgeprune import __version__

    assert run("--version") == (0, f"edgeprune {__version__}\n", "")


LOADED = """
import sys
before = set(sys.modules)
from edgeprune.cli import main
try:
    main()
except SystemExit:
    own = {name.removeprefix("edgeprune.") for name in sys.modules if name.startswith("edgeprune.")}
    roots = {name.partition(".")[0] for name in set(sys.modules) - before} - {*sys.stdlib_module_names}
    print(sorted(own | roots))
"""
SHARED = {"click", "edgeprune", "rich", "cli", "cli.completion", "cli.console", "cli.lazy", "cli.options", "errors"}


@pytest.mark.parametrize(
    ("arguments", "modules"),
    [
        ((), {*SHARED, "precisions", *(f"cli.{verb.replace('-', '_')}" for verb in VERBS)}),
        (("export",), {*SHARED, "precisions", "cli.assemble", "cli.export"}),
        (("bench",), {*SHARED, "cli.bench"}),
        (("bavit", "train"), {*SHARED, "cli.bavit", "cli.bavit.data", "cli.bavit.train"}),
    ],
    ids=["edgeprune", "export", "bench", "bavit train"],
)
def test_what_a_help_text_imports(process: Process, arguments: tuple[str, ...], modules: set[str]) -> None:
    assert process(*arguments, "--help", code=LOADED).out.splitlines()[-1] == str(sorted(modules))


@pytest.mark.parametrize("arguments", [("methods",), ("targets", "--json"), ("--help",), ("export", "--help")], ids=str)
def test_a_closed_pipe_ends_it_like_other_tools(arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-B", "-m", "edgeprune", *arguments]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_errors_are_json_where_the_output_is(run: Run, desk: Path) -> None:
    for arguments in (("inspect", "nowhere"), ("export", "--method", "fastervlmm"), ("verify", "--nonsense", ".")):
        done = run(*arguments, "--json")
        assert (done.code, done.out) == (2, "")
        assert json.loads(done.err).keys() == {"error", "exit_code"}
        assert json.loads(done.err)["exit_code"] == 2


if __name__ == "__main__":
    print(all_help(), end="")
