"""A model of the hub: which of its files are fetched, from the cache and from one commit, and what is refused."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edgeprune.checkpoint import open_checkpoint

MakeFolder = Callable[..., Path]
Split = Callable[[Path], tuple[list[str], list[str]]]
Refusal = Callable[..., str]
Tokens = Callable[..., Tensor]
INDEX = "model.safetensors.index.json"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path: Path) -> Callable[[Path], Path]:
    """(folder) -> the snapshot of owner/name in the hub's cache, with the files of that folder."""

    def make(folder: Path) -> Path:
        repository = tmp_path / "hub" / "models--owner--name"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT)
        (repository / "snapshots").mkdir()
        return folder.rename(repository / "snapshots" / COMMIT)

    return make


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """The files asked of the hub, each with the revision, in order."""
    import huggingface_hub

    names: list[tuple[str, str | None]] = []
    original = huggingface_hub.hf_hub_download

    def counting(id: str, name: str, revision: str | None = None, local_files_only: bool = False) -> str:
        names.append((name, revision))
        return original(id, name, revision=revision, local_files_only=local_files_only)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", counting)
    return names


Cached = Callable[[Path], Path]
Fetched = list[tuple[str, "str | None"]]


def test_a_cached_model_works_offline_and_says_its_commit(
    clip_folder: MakeFolder, tmp_path: Path, cached: Cached, tokens: Tokens
) -> None:
    whole = tokens(clip_folder(tmp_path / "clip"))
    cached(tmp_path / "clip")
    for revision in (None, "main", COMMIT):
        found = open_checkpoint("owner/name", revision)
        assert (found.id, found.revision) == ("owner/name", COMMIT)
        assert torch.equal(tokens(found), whole)


def test_with_an_index_only_the_shards_of_the_encoder_are_fetched(
    llava_folder: MakeFolder, tmp_path: Path, cached: Cached, fetched: Fetched, tokens: Tokens, split: Split
) -> None:
    folder = cached(llava_folder(tmp_path / "llava", max_shard_size="60KB"))
    (folder / "model.safetensors").write_bytes(b"the same again in one file")
    wanted, others = split(folder)
    tokens(open_checkpoint("owner/name"))
    names = {name for name, _ in fetched}
    assert {name for name in names if name.endswith(".safetensors")} == set(wanted)
    assert others


def test_without_an_index_the_one_file_is_fetched_after_everything_small(
    clip_folder: MakeFolder, tmp_path: Path, cached: Cached, fetched: Fetched, tokens: Tokens
) -> None:
    cached(clip_folder(tmp_path / "clip"))
    tokens(open_checkpoint("owner/name"))
    names = [name for name, _ in fetched]
    assert names.index(INDEX) < names.index("model.safetensors")
    assert not [name for name in names if name.endswith(".bin")]


def test_a_model_that_cannot_be_used_is_refused_before_its_weights_are_fetched(
    clip_folder: MakeFolder, tmp_path: Path, cached: Cached, fetched: Fetched, refusal: Refusal
) -> None:
    folder = cached(clip_folder(tmp_path / "clip"))
    (folder / "preprocessor_config.json").unlink()
    assert "owner/name has no preprocessor_config.json in the cache" in refusal("owner/name")
    assert "model.safetensors" not in [name for name, _ in fetched]


def test_every_file_comes_from_the_commit_of_the_first(
    clip_folder: MakeFolder, tmp_path: Path, cached: Cached, fetched: Fetched, tokens: Tokens
) -> None:
    cached(clip_folder(tmp_path / "clip"))
    tokens(open_checkpoint("owner/name"))
    assert fetched[0] == ("config.json", None)
    assert {revision for _, revision in fetched[1:]} == {COMMIT}


def test_without_network_and_cache_a_hub_id_is_refused(refusal: Refusal) -> None:
    assert refusal("owner/name") == (
        "owner/name has no config.json in the cache, and the hub cannot be reached; "
        "give a local folder with --model instead"
    )


def test_a_hub_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, clip_folder: MakeFolder, tmp_path: Path, cached: Cached, refusal: Refusal
) -> None:
    """Neither where nothing is cached, nor for what a cached model need not have: it is asked once, without retries."""
    import huggingface_hub

    waited: list[float] = []
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("time.sleep", waited.append)
        assert "no config.json in the cache, and the hub cannot be reached" in refusal("nope/nope")
        cached(clip_folder(tmp_path / "clip"))
        assert open_checkpoint("owner/name").revision == COMMIT
    assert waited == []


def test_a_cached_model_without_weights_is_refused(
    clip_folder: MakeFolder, tmp_path: Path, cached: Cached, refusal: Refusal
) -> None:
    (cached(clip_folder(tmp_path / "clip")) / "model.safetensors").unlink()
    assert refusal("owner/name").startswith("owner/name has no model.safetensors in the cache, and the hub cannot")


def test_a_shard_that_is_not_cached_is_named(
    llava_folder: MakeFolder, tmp_path: Path, cached: Cached, refusal: Refusal, split: Split
) -> None:
    folder = cached(llava_folder(tmp_path / "llava", max_shard_size="60KB"))
    gone = split(folder)[0][0]
    (folder / gone).unlink()
    assert refusal("owner/name").startswith(f"owner/name has no {gone} in the cache")


def test_an_unknown_revision_is_refused(
    clip_folder: MakeFolder, tmp_path: Path, cached: Cached, refusal: Refusal
) -> None:
    cached(clip_folder(tmp_path / "clip"))
    assert "owner/name has no config.json in the cache" in refusal("owner/name", revision="v9")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("EntryNotFoundError", "owner/name has no config.json on the hub; give a local folder"),
        ("GatedRepoError", "it is gated; accept its terms on its page and log in with `hf auth login`"),
        ("RepositoryNotFoundError", "the hub has no such model, or it is private"),
        ("RevisionNotFoundError", "it has no revision v9; check --revision"),
        ("HfHubHTTPError", "503 Server Error; give a local folder with --model instead"),
    ],
)
def test_what_the_hub_answers_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, error: str, says: str, refusal: Refusal
) -> None:
    import huggingface_hub

    cls = getattr(huggingface_hub.errors, error)
    raised = cls.__new__(cls)  # the constructor of some wants a response
    raised.args = ("503 Server Error\n\nMore about it.",)

    def answer(*_: object, **__: object) -> str:
        raise raised

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", answer)
    assert says in refusal("owner/name", revision="v9")
