"""A bundle goes to a hub and comes back. The hub is one of our own: the routes of huggingface.co that an upload and a
download take, on this machine. What the real one makes of them is not run here."""

from __future__ import annotations

import base64
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from click.testing import CliRunner
from huggingface_hub import HfApi, ModelCard, constants

from edgeprune import bundle
from edgeprune.cli import cli
from edgeprune.errors import EdgepruneError, MissingPackageError, RequestError
from edgeprune.export import hub
from edgeprune.runtime.parity.verify import verify

COMMIT = "0123456789abcdef" * 2 + "01234567"


class Hub(BaseHTTPRequestHandler):
    """Keeps what is committed to it, for as long as the server lives."""

    server: Server

    def do_GET(self) -> None:
        found = self.server.repositories.get(self._id())
        if found is None:
            self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        else:
            self._answer([{"type": "file", "path": name, "size": 1, "oid": COMMIT} for name in found])

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            given = json.loads(sent)
            self.server.private = given.get("private") or given.get("visibility") == "private"
            name = f"{given['organization']}/{given['name']}"
            self.server.repositories.setdefault(name, {".gitattributes": b""})
            self._answer({"url": f"{self.server.url}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(sent)["files"]]
            self._answer(
                {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for n in names]}
            )
        elif "/commit/" in self.path:
            files = [entry["value"] for entry in map(json.loads, sent.splitlines()) if entry["key"] == "file"]
            self.server.repositories[self._id()] |= {one["path"]: base64.b64decode(one["content"]) for one in files}
            url = f"{self.server.url}/{self._id()}/commit/{COMMIT}"
            self._answer({"success": True, "commitOid": COMMIT, "commitUrl": url})
        else:
            self._answer({"error": self.path}, 501)

    def _id(self) -> str:
        """Of /api/models/owner/name/..."""
        return "/".join(self.path.split("/")[3:5])

    def _answer(self, value: Any, code: int = 200, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(code)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        print(self.requestline)


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hub)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(hub, "_api", lambda: HfApi(endpoint=server.url, token="hf_none"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_none")
        yield server
        server.shutdown()


def fetched(server: Server, id: str, folder: Path) -> Path:
    folder.mkdir()
    for name, content in server.repositories[id].items():
        (folder / name).write_bytes(content)
    return folder


def test_what_is_pushed_is_the_bundle(server: Server, make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_bundle()
    hub.check("me/bundle")
    assert hub.push(folder, "me/bundle", private=True) == f"{server.url}/me/bundle"
    assert server.private
    assert bundle.load(fetched(server, "me/bundle", tmp_path / "back")).manifest == bundle.load(folder).manifest
    hub.check("me/bundle")  # a bundle may follow another


def test_something_else_is_not_pushed_over(server: Server) -> None:
    server.repositories["me/model"] = {"config.json": b"{}", ".gitattributes": b""}
    with pytest.raises(RequestError, match=r"me/model must be new, or a bundle; it holds config\.json and no manifest"):
        hub.check("me/model")


def test_a_repository_that_is_empty_will_do(server: Server) -> None:
    server.repositories["me/new"] = {".gitattributes": b""}
    hub.check("me/new")


@pytest.mark.parametrize("id", ["bundle", "me/b/c", "https://huggingface.co/me/b", "../b", ""])
def test_an_id_that_is_none_is_refused(id: str) -> None:
    with pytest.raises(
        RequestError, match=r"--push-to-hub must be a repository of the Hugging Face hub \(owner/name\)"
    ):
        hub.check(id)


def test_who_is_not_logged_in_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(RequestError, match="--push-to-hub me/bundle needs a login; run `hf auth login`"):
        hub.check("me/bundle")


def test_without_huggingface_hub_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        MissingPackageError, match=r"huggingface_hub, which is not installed; pip install 'edgeprune\[hub"
    ):
        hub.check("me/bundle")


def test_a_hub_out_of_reach_is_said_before_the_export(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RequestError, match=r"--push-to-hub me/bundle cannot be reached: .*offline.*; leave it out"):
        hub.check("me/bundle")


def test_an_upload_that_fails_leaves_the_bundle_and_says_how_to_go_on(
    server: Server, make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_bundle()
    monkeypatch.setattr(Hub, "do_POST", Hub.do_GET)  # the repository is not found
    with pytest.raises(EdgepruneError) as failed:
        hub.push(folder, "me/bundle", private=False)
    assert re.fullmatch(
        rf"{folder} is written, but was not pushed to me/bundle: .+; later: `hf upload me/bundle {folder}`",
        str(failed.value),
    )
    bundle.load(folder)


@pytest.mark.parametrize(("revision", "base"), [("local", None), (COMMIT, "owner/model")])
def test_the_card_says_what_the_hub_reads(make_bundle: Callable[..., Path], revision: str, base: str | None) -> None:
    model = bundle.Model(id="owner/model", revision=revision, family="clip", layer=3, features="")
    manifest = bundle.load(make_bundle(model=model)).manifest
    text = hub.card(manifest, "# The page\n", "me/bundle")
    card: Any = ModelCard(text, ignore_metadata_errors=False)
    assert card.data.to_dict() == {
        "library_name": "edgeprune",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["edgeprune", "onnx", "token-pruning", "brightest", "cpu"],
        **({} if base is None else {"base_model": base}),
    }
    assert card.text.strip().startswith("# The page")
    assert 'load("me/bundle")' in card.text
    assert "owner/model" in card.text


@pytest.mark.slow
def test_an_export_is_pushed_with_its_card(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of it, from the command line; the bundle that comes back verifies."""
    monkeypatch.chdir(tmp_path)
    words = ["export", "--method", "fastervlm", "--keep", "9", "--no-baselines", "--output", "out"]
    said = CliRunner().invoke(cli, [*words, "--push-to-hub", "me/tiny"], catch_exceptions=False).stdout
    assert said.splitlines()[-2:] == ["wrote out", f"pushed to {server.url}/me/tiny"]
    back = fetched(server, "me/tiny", tmp_path / "back")
    assert bundle.load(back).manifest == bundle.load("out").manifest
    assert [report.passed for report in verify(back, device="cpu")] == [True]
    page = (back / "README.md").read_text()
    card: Any = ModelCard(page)
    assert card.data.library_name == "edgeprune"
    assert "9 of 144 tokens" in page
    assert "Multiply-adds per run" in page
