"""A bundle on the Hugging Face hub: the card that its README.md is there, and the upload.

The card is made with the bundle, since the manifest lists README.md: what is fetched is, byte for byte, what was
exported and verified. huggingface_hub is imported only where something is pushed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.bundle import MANIFEST, Manifest
from edgeprune.bundle.finding import HUB_ID
from edgeprune.errors import EdgepruneError, MissingPackageError, RequestError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["card", "check", "push"]

TASKS = {"tokens": "image-feature-extraction", "detections": "object-detection", "logits": "image-classification"}
"""what a bundle gives -> the hub's name for what it is for"""
_PAGE = """\
---
{header}
---
{page}
## From the hub

```
pip install 'edgeprune[cpu,hub]'
hf download {id}
edgeprune verify {id}
```

In Python it is `load("{id}")`. The weights are those of {base}, under its terms; no license of their own is set here.
"""


def card(manifest: Manifest, page: str, id: str) -> str:
    """README.md as the hub reads it; page: README.md as a device has it, id: owner/name of the repository."""
    from huggingface_hub import ModelCardData

    model, local = manifest.model, manifest.model.revision == "local"
    header = ModelCardData(
        library_name="edgeprune",
        pipeline_tag=TASKS[manifest.kind],
        base_model=None if local else model.id,
        tags=["edgeprune", "onnx", "token-pruning", manifest.method, manifest.target],
    )
    base = f"`{model.id}`" if local else f"[{model.id}](https://huggingface.co/{model.id}/tree/{model.revision})"
    return _PAGE.format(header=header.to_yaml(), page=page, id=id, base=base)


def check(id: str) -> None:
    """What would keep a bundle from being pushed, before it is made.

    Raises RequestError when the id is none, nobody is logged in, the hub cannot be reached, or the repository holds
    something that is no bundle; MissingPackageError without huggingface_hub.
    """
    if not re.fullmatch(HUB_ID, id):
        raise RequestError(f"--push-to-hub must be a repository of the Hugging Face hub (owner/name), got {id}")
    try:
        from huggingface_hub import errors, get_token
    except ImportError:
        raise MissingPackageError("huggingface_hub", "hub") from None
    if get_token() is None:
        raise RequestError(f"--push-to-hub {id} needs a login; run `hf auth login`, or leave it out")
    try:
        there = set(_api().list_repo_files(id)) - {".gitattributes"}
    except errors.RepositoryNotFoundError:
        return
    except Exception as error:  # what it raises when the network fails changes from release to release
        raise RequestError(f"--push-to-hub {id} cannot be reached: {_reason(error)}; leave it out") from None
    if there and MANIFEST not in there:
        raise RequestError(
            f"--push-to-hub {id} must be new, or a bundle; it holds {min(there)} and no {MANIFEST}; choose another name"
        )


def push(folder: Path, id: str, private: bool) -> str:
    """Upload a bundle, to a repository that is made if there is none. Returns the address of its page.

    private: whether a new repository is seen by its owner alone

    Raises EdgepruneError when it cannot be uploaded, with the command that does so later.
    """
    try:
        url = _api().create_repo(id, private=private, exist_ok=True)
        _api().upload_folder(repo_id=id, folder_path=folder, commit_message="Upload a bundle of edgeprune")
    except Exception as error:
        raise EdgepruneError(
            f"{folder} is written, but was not pushed to {id}: {_reason(error)}; later: `hf upload {id} {folder}`"
        ) from None
    return str(url)


def _api() -> HfApi:
    """The seam at which tests put a hub of their own."""
    from huggingface_hub import HfApi

    return HfApi(library_name="edgeprune")


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
