"""What a shell is offered, asked through click's own interface of completion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import CompletionItem, ShellComplete

from edgeprune import catalog, targets
from edgeprune.cli import VERBS, cli

Process = Callable[..., Any]


def offered(*words: str) -> list[CompletionItem]:
    """Behind these words, of which the last one is begun."""
    return ShellComplete(cli, {}, "edgeprune", "_EDGEPRUNE_COMPLETE").get_completions([*words[:-1]], words[-1])


def names(*words: str) -> list[str]:
    return [item.value for item in offered(*words)]


def test_verbs() -> None:
    assert {*names("")} == {*VERBS}
    assert names("ver") == ["verify"]
    assert names("bavit", "f") == ["finetune"]


def test_methods_with_what_they_do() -> None:
    every = [*(one.name for one in catalog.methods()), *(one.name for one in catalog.reducers())]
    assert names("export", "--method", "") == every
    (found,) = offered("export", "--method", "faster")
    assert (found.value, found.help) == ("fastervlm", next(m.does for m in catalog.methods() if m.name == "fastervlm"))


def test_options_of_the_method_that_was_given() -> None:
    assert "alpha=" in names("export", "--method", "hiprune", "--option", "")
    assert names("export", "--method", "fastervlm", "--option", "alp") == []
    assert names("export", "--option", "") == []


def test_reducers_and_their_options() -> None:
    assert names("export", "--inside", "pi") == ["pitome"]
    assert names("export", "--method", "zero-tprune", "--option", "r") == ["rounds="]
    assert names("export", "--method", "hiprune", "--inside", "gtp", "--option", "bi") == ["bias="]


@pytest.mark.parametrize(
    "words", [("export", "--target"), ("build", "b", "--target"), ("audit", "b", "--target"), ("targets",)]
)
def test_targets_or_a_file_of_ones_own(words: tuple[str, ...]) -> None:
    assert names(*words, "") == targets.names()
    assert names(*words, "rtx") == ["rtx-desktop", "rtx-turing"]
    assert [item.type for item in offered(*words, "./my")] == ["file"]


def test_checkpoints_of_the_cache_that_a_family_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"llava-hf--llava-1.5-7b-hf": "llava", "openai--clip": "clip", "google--bert": "bert", "half--there": None}
    for name, model_type in kinds.items():
        folder = tmp_path / f"models--{name}" / "snapshots" / "0123"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{" if model_type is None else json.dumps({"model_type": model_type}))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found = offered("export", "--model", "")
    assert [(item.value, item.help) for item in found[:-1]] == [
        ("llava-hf/llava-1.5-7b-hf", "llava"),
        ("openai/clip", "clip"),
    ]
    assert found[-1].type == "dir"
    assert names("export", "--model", "open") == ["openai/clip", "open"]
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nowhere"))
    assert [item.type for item in offered("export", "--model", "")] == ["dir"]


@pytest.mark.parametrize("words", [("verify",), ("diff", "old"), ("bench", "--device", "cpu")])
def test_a_bundle_is_a_folder(words: tuple[str, ...]) -> None:
    assert [item.type for item in offered(*words, "out")] == ["dir"]


def test_values_that_can_be_chosen_from() -> None:
    assert names("verify", "--device", "") == ["cpu", "cuda", "tensorrt"]
    assert "--junit" in names("verify", "--j")


def test_the_program_answers_a_shell(process: Process) -> None:
    """As bash asks, by the line that --help gives."""
    words = {"COMP_WORDS": "edgeprune export --method divp", "COMP_CWORD": "3"}
    done = process(_EDGEPRUNE_COMPLETE="bash_complete", **words)
    assert (done.code, done.out, done.err) == (0, "plain,divprune\n", "")
