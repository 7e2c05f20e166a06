"""The command line as its users meet it: what it prints, where, and with which exit code.

`tests/golden/help.txt` holds the help of every verb, 80 columns wide. After a wanted change of it, write it again:

    python tests/cli/test_cli.py > tests/golden/help.txt
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pytest
from PIL import Image

GOLDEN = Path(__file__).parents[1] / "golden" / "help.txt"
SCENE = Path(__file__).parents[2] / "edgeprune" / "models" / "tiny" / "scenes" / "scene00.png"
VERBS = ("export", "build", "audit", "verify", "bench", "show", "inspect", "methods", "targets", "bavit")
BAVIT = ("train", "finetune", "eval")
EXPORT = ("export", "--method", "fastervlm")


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, beside `bundle` if a test asks for one."""
    folder = tmp_path / "desk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(desk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """(arguments) -> exit code, stdout, stderr; in this process, which has torch loaded already."""
    from edgeprune.cli import main

    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: object) -> Done:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["edgeprune", *map(str, arguments)])
        before = signal.getsignal(signal.SIGTERM)
        try:
            main()
        except SystemExit as exit:
            return Done(int(exit.code or 0), *capfd.readouterr())
        finally:
            signal.signal(signal.SIGTERM, before)

    return call


def process(*arguments: object, code: str = "from edgeprune.cli import main; main()", **environment: str) -> Done:
    """The same in a process of its own; `code` may change what it needs first."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "80"} | environment,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def module(*arguments: object) -> Done:
    command = [sys.executable, "-B", "-m", "edgeprune", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def said(done: Done, code: int = 2) -> str:
    """The one line of an error, after `edgeprune: `."""
    lines = done.err.splitlines()
    assert (done.code, done.out, len(lines)) == (code, "", 1), done
    assert lines[0].startswith("edgeprune: ")
    assert "unexpected" not in lines[0]
    return lines[0].removeprefix("edgeprune: ")


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A bundle of the default model, and what its export printed; not to be changed."""
    folder = tmp_path_factory.mktemp("exported") / "out"
    return folder, process(*EXPORT, "--keep", 64, "--no-baselines", "--output", folder)


@pytest.fixture
def bundle(exported: tuple[Path, Done], tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    return Path(shutil.copytree(exported[0], tmp_path / "bundle"))


# An export of the default model, end to end.


def test_an_export_says_what_it_wrote(exported: tuple[Path, Done]) -> None:
    folder, done = exported
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].strip() == "fastervlm keeps 64 of 144 tokens (44%)"
    assert "parity on cpu: 100% decided, 0 wrong" in done.out
    assert lines[-1] == f"wrote {folder}"
    assert sorted(os.listdir(folder.parent)) == ["out"]


def test_a_fresh_bundle_verifies(run: Run, exported: tuple[Path, Done]) -> None:
    done = run("verify", exported[0])
    assert (done.code, done.err) == (0, "")
    assert "Parity with the reference" in done.out
    assert re.search(r"cpu float32 +640/640 .* pass", done.out)


def test_inspect_says_what_it_is_and_what_it_costs(run: Run, exported: tuple[Path, Done]) -> None:
    done = run("inspect", exported[0])
    assert (done.code, done.err) == (0, "")
    for part in ("edgeprune/tiny", "[1, 64, 128] float32", "% of unpruned", "on the formula", "encoder.onnx"):
        assert part in done.out


def test_inspect_shows_a_bundle_that_knows_nothing_of_its_cost(run: Run, bundle: Path) -> None:
    from edgeprune.bundle import load

    manifest = load(bundle).manifest
    costs: tuple[dict[str, int], ...] = ({}, {"formula": 0, "graph": 0, "unpruned_formula": 0}, {"graph": 7})
    for cost in costs:
        (bundle / "manifest.json").write_text(dataclasses.replace(manifest, cost=cost).to_json())
        done = run("inspect", bundle)
        assert (done.code, done.err, "multiply-adds" in done.out) == (0, "", False)


def test_show_writes_a_picture(run: Run, desk: Path, exported: tuple[Path, Done]) -> None:
    assert run("show", exported[0], SCENE) == (0, "wrote kept.png\n", "")
    assert Image.open(desk / "kept.png").format == "PNG"


def test_bench_prints_a_ledger(run: Run, exported: tuple[Path, Done]) -> None:
    done = run("bench", exported[0], "--rounds", 2, "--threads", 1)
    assert (done.code, done.err) == (0, "")
    assert "Ledger: cpu, 2 rounds in turns, threads 1" in done.out


def test_methods_and_targets_are_listed(run: Run) -> None:
    from edgeprune import pruners, targets

    for verb, names in (("methods", pruners.names()), ("targets", targets.names())):
        done = run(verb)
        assert (done.code, done.err) == (0, "")
        assert [name for name in names if not re.search(rf"^ {name} ", done.out, re.MULTILINE)] == []


def test_one_target_is_shown(run: Run) -> None:
    done = run("targets", "jetson-orin")
    assert (done.code, done.err) == (0, "")
    assert re.search(r"^engine +tensorrt >=10\.3,<10\.4, built on-device", done.out, re.MULTILINE)


def test_no_table_is_wider_than_80_columns_or_cuts_anything_off(run: Run, exported: tuple[Path, Done]) -> None:
    folder = exported[0]
    for verb in (["inspect", folder], ["methods"], ["targets"], ["targets", "jetson-orin"], ["verify", folder]):
        out = run(*verb).out
        assert max(map(len, out.splitlines())) <= 80, verb
        assert "…" not in out, verb


def test_a_path_with_brackets_is_printed_as_it_is(run: Run, exported: tuple[Path, Done], tmp_path: Path) -> None:
    """rich would take [red] for a colour and :star: for a picture."""
    folder = Path(shutil.copytree(exported[0], tmp_path / "[red] :star:"))
    assert run("show", folder, SCENE, "--output", tmp_path / "[b].png").out == f"wrote {tmp_path / '[b].png'}\n"
    assert "[red] :star: exists" in said(run(*EXPORT, "--keep", 64, "--output", folder))


def test_a_second_export_to_the_same_place_needs_force(run: Run, bundle: Path) -> None:
    assert said(run(*EXPORT, "--keep", 9, "--output", bundle)) == (
        f"{bundle} exists; choose another --output or replace it with --force"
    )
    assert run(*EXPORT, "--keep", 9, "--no-baselines", "--output", bundle, "--force").code == 0
    assert json.loads(run("inspect", bundle, "--json").out)["keep"] == 9


# JSON.


def test_json_goes_to_stdout_alone_and_parses(run: Run, exported: tuple[Path, Done]) -> None:
    folder = exported[0]
    keys: dict[tuple[object, ...], set[str]] = {
        ("verify", folder): {"passed", "backends"},
        ("bench", folder, "--rounds", 1): {"rows", "parts", "formula", "device", "threads", "rounds", "versions"},
        ("show", folder, SCENE): {"picture", "size"},
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


def test_an_export_prints_json_alone(desk: Path) -> None:
    done = process(*EXPORT, "--keep", 9, "--no-baselines", "--json")
    assert (done.code, done.err) == (0, "")
    given = json.loads(done.out)
    assert given.keys() == {"bundle", "manifest", "parity"}
    assert (given["bundle"], given["manifest"]["keep"]) == ("tiny-fastervlm-9-cpu", 9)
    assert [report["passed"] for report in given["parity"]] == [True]
    assert os.listdir(desk) == ["tiny-fastervlm-9-cpu"]


# Wrong requests: exit 2, one line, nothing written.

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
    ("export", "--method", "none", "--keep", 4): r"none keeps all 144 patches, got keep 4; leave --keep out",
    (*EXPORT, "--keep", 4, "--target", "jetson-orion"): r"no target 'jetson-orion'; .* Did you mean 'jetson-orin'\?",
    (*EXPORT, "--keep", 4, "--target", "my.toml"): r"my\.toml cannot be read: No such file",
    (*EXPORT, "--keep", 4, "--tiles", 0): r"--tiles must be at least 1, got 0",
    (*EXPORT, "--keep", 4, "--tiles", 2, "--dynamic-batch"): r"--tiles 2 fixes the batch and --dynamic-batch frees it",
    (*EXPORT, "--keep", 4, "--precision", "float64"): r"'float64' is not one of 'float32', 'float16'",
    (*EXPORT, "--keep", 4, "--layer", 99): r"layer must be in 1\.\.6 or -6\.\.-1 for 6 layers, got 99",
    (*EXPORT, "--keep", 4, "--layer", 0): r"layer must be in 1\.\.6",
    (*EXPORT, "--keep", 4, "--probes", "."): r"--probes must be a folder with images .*; \. has none",
    (*EXPORT, "--keep", 4, "--probes", "nowhere"): r"--probes must be a folder with images .*; nowhere has none",
    (*EXPORT, "--keep", 4, "--model", "nowhere"): r"--model must be a folder or a Hugging Face id .* nowhere",
    (*EXPORT, "--keep", 4, "--model", "."): r"\. has no config\.json; give a folder as save_pretrained\(\) writes it",
    (*EXPORT, "--keep", 4, "--model", ""): r"--model must be a folder or a Hugging Face id",
    (*EXPORT, "--keep", 4, "--revision", "main"): r"--revision goes with a Hugging Face id",
    (*EXPORT, "--keep", 4, "--output", "."): r"\. exists; choose another --output",
    (*EXPORT, "--keep", 4, "--output", ".", "--force"): r"\. exists and is not a bundle, so --force does not",
    (*EXPORT, "--keep", 4, "--output", "/dev/null/out"): r"/dev/null/out cannot be written: Not a directory",
    (*EXPORT, "--ratio", 4): r"No such option '?--ratio'?.* \(see edgeprune export --help\)",
    ("exprot",): r"No such command 'exprot'.* \(see edgeprune --help\)",
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


@pytest.mark.parametrize("arguments", WRONG, ids=lambda arguments: " ".join(map(str, arguments)))
def test_a_wrong_request_is_refused_in_one_line(run: Run, desk: Path, arguments: tuple[object, ...]) -> None:
    assert re.search(WRONG[arguments], said(run(*arguments)))
    assert os.listdir(desk) == []


@pytest.mark.parametrize(
    "arguments", [("--keep", 145), ("--keep", 4, "--target", "x"), ("--keep", 4, "--model", "no/where")], ids=str
)
def test_a_fresh_process_says_no_more_than_that_line(desk: Path, tmp_path: Path, arguments: tuple[object, ...]) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    said(process(*EXPORT, *arguments, **offline))
    assert os.listdir(desk) == []


def test_python_m_edgeprune_is_the_same_program(desk: Path) -> None:
    assert said(module("inspect", "nowhere")).startswith("nowhere is not a bundle")
    assert module("inspect", "--help").out.startswith("Usage: edgeprune inspect [OPTIONS] BUNDLE\n")


def test_a_method_that_needs_cls_is_refused_without_it(run: Run, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeprune import encoders

    load = encoders.load

    def without_cls(*arguments: Any, **options: Any) -> encoders.Encoder:
        encoder = load(*arguments, **options)
        return replace(encoder, tower=replace(encoder.tower, has_cls=False))

    monkeypatch.setattr(encoders, "load", without_cls)
    assert re.search(r"fastervlm .* has no \[CLS\] token\. Use ", said(run(*EXPORT, "--keep", 4)))
    assert os.listdir(desk) == []


def test_a_missing_shard_is_refused(run: Run, desk: Path, tmp_path: Path, llava_folder: Callable[..., Path]) -> None:
    folder = llava_folder(tmp_path / "llava", max_shard_size="60KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    gone = next(file for name, file in index.items() if name.startswith("vision_tower."))
    (folder / gone).unlink()
    assert f"has no {gone}" in said(run(*EXPORT, "--keep", 4, "--model", folder))
    assert os.listdir(desk) == []


def test_an_output_that_exists_is_refused_before_the_checkpoint_is_read(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeprune.export import job

    monkeypatch.setattr(job, "open_checkpoint", lambda *_: pytest.fail("the checkpoint was read"))
    assert "exists; choose another --output" in said(run(*EXPORT, "--keep", 4, "--output", tmp_path))


def test_a_probe_that_is_no_image_is_named(run: Run, desk: Path, tmp_path: Path) -> None:
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "photo.jpg").write_bytes(b"not a photo")
    assert "photo.jpg" in said(run(*EXPORT, "--keep", 4, "--probes", tmp_path / "probes"))
    assert os.listdir(desk) == []


def test_show_refuses_what_is_no_image(run: Run, desk: Path, tmp_path: Path, exported: tuple[Path, Done]) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"not a photo")
    for image in (tmp_path / "photo.jpg", tmp_path / "nowhere.jpg", tmp_path):
        assert str(image) in said(run("show", exported[0], image))
    assert os.listdir(desk) == []


def test_show_refuses_an_output_that_is_no_png_or_cannot_be_written(
    run: Run, desk: Path, exported: tuple[Path, Done]
) -> None:
    assert "ends in .png" in said(run("show", exported[0], SCENE, "--output", "kept.jpg"))
    assert "nowhere/kept.png cannot be written" in said(run("show", exported[0], SCENE, "--output", "nowhere/kept.png"))
    assert os.listdir(desk) == []


def test_bench_names_the_baselines_that_there_are(run: Run, exported: tuple[Path, Done]) -> None:
    assert said(run("bench", exported[0], "--against", "nothing")) == (
        f"no baseline 'nothing' in {exported[0]}; it has none"
    )


def test_cuda_is_refused_where_there_is_none(run: Run, exported: tuple[Path, Done]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is CUDA")
    for verb in ("verify", "bench"):
        assert "device cuda cannot be used" in said(run(verb, exported[0], "--device", "cuda"))


# Failures: exit 1, or the signal's.


def test_a_bundle_that_differs_from_its_reference_fails_and_says_why(run: Run, bundle: Path) -> None:
    from safetensors.numpy import load_file, save_file

    from edgeprune.bundle import MANIFEST, describe_files, load

    manifest = load(bundle).manifest
    tensors = load_file(bundle / "reference.safetensors")
    tensors["scene00/tokens"] = np.ascontiguousarray(tensors["scene00/tokens"][:, ::-1])
    save_file(tensors, bundle / "reference.safetensors")
    assert "reference.safetensors has changed" in said(run("verify", bundle))

    (bundle / MANIFEST).write_text(dataclasses.replace(manifest, files=describe_files(bundle)).to_json())
    assert load(bundle)

    done = run("verify", bundle)
    assert done.code == 1
    assert re.search(r"scene00 .*FAIL", done.out)
    assert len(done.err.splitlines()) == 1
    assert re.match(rf"edgeprune: {bundle} differs from its reference on cpu: .*token", done.err)
    done = run("verify", bundle, "--json")
    assert (done.code, json.loads(done.out)["passed"]) == (1, False)


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


def test_debug_shows_the_traceback() -> None:
    done = module("inspect", "nowhere", "--debug")
    assert done.code == 1
    assert done.err.startswith("Traceback")
    assert "BundleError: nowhere is not a bundle" in done.err


@pytest.mark.parametrize(
    ("name", "code", "word"),
    [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated"), ("SIGHUP", 129, "terminated")],
    ids=str,
)
def test_a_signal_in_the_middle_of_an_export_leaves_nothing(desk: Path, name: str, code: int, word: str) -> None:
    """It arrives when the reference is written already, and the graphs are about to be."""
    interrupted = f"""
import os, signal
from pathlib import Path
from edgeprune.export import job
if "{name}" == "SIGHUP":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and stays so
def save_graphs(folder, *_):
    assert (folder / "reference.safetensors").is_file()
    signal.raise_signal(signal.{name})
job.save_graphs = save_graphs
from edgeprune.cli import main
main()
"""
    done = process(*EXPORT, "--keep", 4, "--no-baselines", "--output", "new/out", code=interrupted)
    assert done == (code, "", f"edgeprune: {word}; nothing was written\n")
    assert os.listdir(desk) == []


# Help.


def all_help() -> str:
    texts = [
        f"$ {' '.join(['edgeprune', *verb, '--help'])}\n{process(*verb, '--help').out}"
        for verb in ([], *([v] for v in VERBS), *(["bavit", v] for v in BAVIT))
    ]
    return "\n".join(texts)


def test_help_is_what_was_agreed_on() -> None:
    assert all_help() == GOLDEN.read_text(encoding="utf-8")


def test_help_cuts_nothing_off_and_fits_80_columns() -> None:
    text = GOLDEN.read_text(encoding="utf-8")
    assert not [line for line in text.splitlines() if line.endswith("...") and not line.startswith("Usage:")]
    assert max(map(len, text.splitlines())) <= 80


def test_every_verb_has_an_example_json_and_debug() -> None:
    from edgeprune.cli import cli
    from edgeprune.cli.bavit import command as bavit

    context = click.Context(cli)
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


LIGHT = """
import sys
before = set(sys.modules)
from edgeprune.cli import main
try:
    main()
except SystemExit:
    print(*sorted(name for name in set(sys.modules) - before if name.partition(".")[0] not in sys.stdlib_module_names))
"""


@pytest.mark.parametrize("arguments", [("--help",), ("export", "--help"), ("--version",)], ids=" ".join)
def test_help_imports_the_command_line_alone(arguments: tuple[str, ...]) -> None:
    """So it comes at once on any machine: in some 0.1 s, of which nothing is torch's or numpy's."""
    imported = process(*arguments, code=LIGHT).out.splitlines()[-1].split()
    assert {name.partition(".")[0] for name in imported} <= {"click", "edgeprune", "rich"}
    own = {name for name in imported if name.startswith("edgeprune.") and not name.startswith("edgeprune.cli.")}
    assert own == {"edgeprune.cli", "edgeprune.errors"}


# A plan that does not fit the machine.


PLAN_OF: dict[str, tuple[dict[str, Any], str]] = {
    "another GPU": (
        {"sm": (87,)},
        r"\.plan is for SM 87, the GPU here has SM 86; build one for SM 86: `edgeprune bu",
    ),
    "another release": ({"version": "10.7.0"}, r"built by tensorrt 10\.7\.0, here is 10\.3\.0; build it again: `edgep"),
    "another system": (
        {"system": "Linux riscv64"},
        r"built on Linux riscv64, this is .*; build one on this machine: ",
    ),
}


@pytest.mark.parametrize("what", PLAN_OF)
@pytest.mark.parametrize("verb", ["verify", "bench"])
def test_a_plan_of_something_else_is_refused_by_name_with_a_remedy(
    run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch, verb: str, what: str
) -> None:
    from edgeprune import bundle as bundles
    from edgeprune.runtime.backends import plan

    here = plan.Have({"tensorrt": "10.3.0"}, {}, plan.Gpu(86), plan.here([]).system)
    fits = bundles.Engine("encoder.jetson-orin.plan", "tensorrt", "10.3.0", (86,), here.system, (), 1)
    changes, says = PLAN_OF[what]
    bundles.add_engine(bundles.load(bundle), "jetson-orin", replace(fits, **changes), b"plan")
    monkeypatch.setattr(plan, "here", lambda kinds: here)
    monkeypatch.setenv("PATH", "")  # no trtexec
    assert re.search(says, said(run(verb, bundle, "--device", "tensorrt")))


def test_a_bundle_without_a_plan_says_how_to_make_one(run: Run, exported: tuple[Path, Done]) -> None:
    folder = exported[0]
    assert said(run("verify", folder, "--device", "tensorrt")) == (
        f"{folder} has no plan for device tensorrt; make one with `edgeprune build {folder}`"
    )


def test_verify_reports_a_plan_that_cannot_be_used_as_not_run(run: Run, bundle: Path) -> None:
    from edgeprune import bundle as bundles

    engine = bundles.Engine("encoder.jetson-orin.plan", "tensorrt", "10.3.0", (87,), "Linux riscv64", (), 1)
    bundles.add_engine(bundles.load(bundle), "jetson-orin", engine, b"plan")
    done = run("verify", bundle)
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.split("parity on")[0].splitlines())) <= 80
    assert "not run on tensorrt: device tensorrt finds no plan" in done.out
    backends = json.loads(run("verify", bundle, "--json").out)["backends"]
    assert [(one["device"], one["passed"]) for one in backends if one["device"] != "cuda"] == [
        ("cpu", True),
        ("tensorrt", None),
    ]


if __name__ == "__main__":
    print(all_help(), end="")
