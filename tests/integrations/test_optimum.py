"""`optimum-cli export edgeprune` is `edgeprune export`, once it is registered: here in a folder of the test."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgeprune.errors import MissingPackageError, RequestError
from edgeprune.integrations import optimum as integration

EXPORT = ("export", "edgeprune", "--method", "fastervlm")


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that registers the command, on the path beside optimum."""
    pytest.importorskip("optimum.commands.optimum_cli", reason="needs optimum")
    if (integration.registry() / integration.FILE).exists():
        pytest.skip("the command is registered already, and would be so twice")
    folder = tmp_path / "site" / "optimum" / "commands" / "register"
    monkeypatch.setattr(integration, "registry", lambda: folder)
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield integration.register()
    for name in [name for name in sys.modules if name.startswith("optimum.commands.register")]:
        del sys.modules[name]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "desk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """(main function, its name, arguments) -> exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(main: Callable[[], object], name: str, *arguments: object) -> Done:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        before = signal.getsignal(signal.SIGTERM)
        try:
            main()
        except SystemExit as exit:
            return Done(int(exit.code or 0), *capfd.readouterr())
        finally:
            signal.signal(signal.SIGTERM, before)
        raise AssertionError("it must leave with an exit code")

    return run


@pytest.fixture
def optimum_cli(registered: Path, desk: Path, call: Callable[..., Done]) -> Callable[..., Done]:
    """(arguments) -> what optimum-cli does with them in an empty folder."""
    from optimum.commands.optimum_cli import main

    return lambda *arguments: call(main, "optimum-cli", *arguments)


@pytest.mark.slow
def test_the_bundle_is_that_of_edgeprune(optimum_cli: Callable[..., Done]) -> None:
    from edgeprune.export import Request, export_bundle

    done = optimum_cli(*EXPORT, "--keep", 9, "--no-baselines", "--output", "theirs", "--json")
    assert (done.code, done.err) == (0, "")
    given = json.loads(done.out)
    own = export_bundle(Request("fastervlm", "cpu", keep=9, baselines=False, output=Path("own")))
    assert given["bundle"] == "theirs"
    assert given["manifest"] == json.loads(json.dumps(dataclasses.asdict(own.manifest)))


@pytest.mark.slow
def test_a_question_and_the_halves_go_along(optimum_cli: Callable[..., Done]) -> None:
    asked = ("export", "edgeprune", "--method", "cdpruner", "--option", "form=openvino", "--split")
    done = optimum_cli(*asked, "--keep", 9, "--no-baselines", "--output", "asked", "--json")
    assert (done.code, done.err) == (0, "")
    given = json.loads(done.out)
    assert given["manifest"]["ports"]["text"]["blank"] == 0
    assert given["manifest"]["graphs"].keys() == {"encoder", "encode", "select"}
    assert [(one["device"], one["passed"]) for one in given["parity"]] == [("cpu", True), ("cpu halves", True)]


def test_the_help_is_that_of_edgeprune(optimum_cli: Callable[..., Done], call: Callable[..., Done]) -> None:
    from edgeprune.cli import main

    assert "edgeprune" in optimum_cli("export", "--help").out
    done = optimum_cli("export", "edgeprune", "--help")
    assert done == call(main, "edgeprune", "export", "--help")
    assert "--keep NUMBER" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--keep", 145), "keep must be in 1..144 for 144 patches, got 145"),
        (("--keep", "x"), "'x' is neither a number of tokens"),
        (("--keep",), "Option '--keep' requires an argument"),
        (("--ratio", 4), "No such option"),
        (("--keep", 9, "folder"), "Got unexpected extra argument (folder)"),
    ],
    ids=str,
)
def test_a_wrong_request_is_refused_in_one_line(
    optimum_cli: Callable[..., Done], desk: Path, words: tuple[object, ...], message: str
) -> None:
    done = optimum_cli(*EXPORT, *words)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert message in done.err
    assert list(desk.iterdir()) == []


# The file that registers it.


def test_optimum_works_on_when_edgeprune_is_gone(registered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(runpy.run_path(str(registered))["REGISTER_COMMANDS"]) == 1
    monkeypatch.setitem(sys.modules, "edgeprune.integrations.optimum", None)
    assert runpy.run_path(str(registered))["REGISTER_COMMANDS"] == []


def test_it_is_written_beside_the_commands_of_optimum() -> None:
    base = pytest.importorskip("optimum.commands.base", reason="needs optimum")
    assert integration.registry() == Path(base.__file__).parent / "register"


def test_it_is_written_and_taken_away_again(
    tmp_path: Path, call: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "register"
    monkeypatch.setattr(integration, "registry", lambda: folder)
    for _ in range(2):
        assert call(integration.main, "register") == (0, f"wrote {folder}/edgeprune.py\n", "")
        assert [file.name for file in folder.iterdir()] == ["edgeprune.py"]
    for _ in range(2):
        assert call(integration.main, "register", "--remove") == (0, f"removed {folder}/edgeprune.py\n", "")
        assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(integration, "registry", lambda: tmp_path / "file" / "register")
    with pytest.raises(RequestError, match=r"edgeprune\.py cannot be written: Not a directory"):
        integration.register()
    with pytest.raises(RequestError, match=r"edgeprune\.py cannot be removed: Not a directory"):
        integration.unregister()


def test_without_optimum_the_extra_is_named(call: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> Any:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib.util, "find_spec", nothing)
    with pytest.raises(MissingPackageError, match=r"needs the package optimum, .* pip install 'edgeprune\[optimum\]'"):
        integration.registry()
    done = call(integration.main, "register")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
