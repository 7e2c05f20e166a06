"""What a checkpoint says of text: tokenizer, chat template, stop ids, and what its processor writes around an image."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from edgeprune.checkpoint import Files
from edgeprune.checkpoint._files import Absent, read_json
from edgeprune.errors import ModelError
from edgeprune.runtime.generate.chat import PLAIN, SETTINGS, TEMPLATE, TOKENIZER
from edgeprune.runtime.generate.folder import Prompt

__all__ = ["Texts", "collapsed", "load_texts"]

COPIED = ("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json")
QUESTION = "What is this?"
Names: TypeAlias = tuple[tuple[str, str], ...]
"""of tokens: (its name in the tokenizer, the token where it has none of that name)"""
FAKE, WHOLE = ("fake_image_token", "<fake_token_around_image>"), ("global_image_token", "<global-img>")
AROUND: Mapping[str, tuple[Names, Names]] = {
    **dict.fromkeys(("llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "cosmos3_omni"), ((), ())),
    "internvl": ((("start_image_token", "<img>"),), (("end_image_token", "</img>"),)),
    "smolvlm": ((FAKE, WHOLE), (FAKE,)),
    "idefics3": ((FAKE, WHOLE), (FAKE,)),
}
"""models whose processors handle videos, too, for which they need torchvision, or cut images into tiles -> what these
write in front of an image and behind it (`replace_image_token` of the processors, transformers 5.24)"""
CUT = ("smolvlm", "idefics3")
"""those that cut an image: here it is one tile, as the processor writes it where the image is not split"""


@dataclass(frozen=True)
class Texts:
    """The processor of a checkpoint, as transformers loads it."""

    id: str
    processor: Any
    image: int
    """id in whose places the tokens of an image go"""
    stop: tuple[int, ...]
    around: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    """ids in front of an image and behind it, where there is but a tokenizer, whose answer cannot be compared"""

    @property
    def tokenizer(self) -> Any:
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def template(self) -> str:
        """The chat template; of LLaVA-1.5 where there is none."""
        own = getattr(self.processor, "chat_template", None) or getattr(self.tokenizer, "chat_template", None)
        if isinstance(own, Mapping):
            own = own.get("default")
        return own or PLAIN

    def ids(self, messages: list[dict[str, Any]]) -> list[int]:
        """The prompt as transformers makes it, images counted as its processor does.

        messages: with the images themselves, {"type": "image", "image": ...}
        """
        made = self.processor.apply_chat_template(
            messages,
            chat_template=self.template,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            **({"image": self.placeholder_text} if self.template == PLAIN else {}),
        )
        if self.around is None:
            return [int(one) for one in made["input_ids"][0]]  # a tensor, of some processors
        front, behind = self.around
        return [id for one in made["input_ids"] for id in ((*front, one, *behind) if one == self.image else (one,))]

    @property
    def placeholder_text(self) -> str:
        text: str = self.tokenizer.convert_ids_to_tokens(self.image)
        return text

    def prompt(self) -> Prompt:
        """What is around an image, found by comparing the template's ids with the processor's.

        Raises ModelError when they do not differ by that alone.
        """
        if self.around is not None:
            return Prompt(self.image, self.image, *self.around)
        words = {"type": "text", "text": QUESTION}
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, words]}],
            chat_template=self.template,
            add_generation_prompt=True,
            tokenize=False,
            **({"image": self.placeholder_text} if self.template == PLAIN else {}),
        )
        start = self.tokenizer.bos_token
        own = self.tokenizer(text, add_special_tokens=not (start and text.startswith(start)))["input_ids"]
        picture = Image.linear_gradient("L").convert("RGB")
        given = collapsed(
            self.ids([{"role": "user", "content": [{"type": "image", "image": picture}, words]}]), self.image
        )
        if own.count(self.image) == 1 and given.count(self.image) == 1:
            at, there = own.index(self.image), given.index(self.image)
            front, back = own[:at], own[at + 1 :]
            before, after = given[len(front) : there], given[there + 1 : len(given) - len(back)]
            if [*front, *before, self.image, *after, *back] == given:
                return Prompt(self.image, self.image, tuple(before), tuple(after))
        raise ModelError(
            f"the chat template of {self.id} must write one placeholder for an image, which its processor replaces "
            f"where it stands; it writes {text!r:.120}; give a model whose processor does so"
        )

    def write(self, folder: Path, files: Files) -> None:
        """tokenizer.json, tokenizer_config.json, chat_template.jinja, and the checkpoint's configs as they are.

        Raises ModelError when there is no tokenizer.json to be had.
        """
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            saved = Path(scratch)
            self.tokenizer.save_pretrained(saved)
            if not (saved / TOKENIZER).is_file():
                raise ModelError(
                    f"{self.id} must have a fast tokenizer ({TOKENIZER}); save it with one of transformers"
                )
            for name in (TOKENIZER, SETTINGS):
                shutil.copyfile(saved / name, folder / name)
        (folder / TEMPLATE).write_text(self.template, encoding="utf-8")
        for name in COPIED:
            with contextlib.suppress(Absent):
                shutil.copyfile(files.locate(name), folder / name)


def load_texts(files: Files, config: Any) -> Texts:
    """Raises ModelError when transformers reads no processor."""
    import transformers

    where: dict[str, Any] = {} if files.revision == "local" else {"revision": files.revision}
    place = str(files.locate("config.json").parent) if files.revision == "local" else files.id
    kind = config.model_type
    alone = kind in CUT or (kind in AROUND and importlib.util.find_spec("torchvision") is None)
    loader: Any = transformers.AutoTokenizer if alone else transformers.AutoProcessor
    try:
        processor = loader.from_pretrained(place, **where)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{files.id} must have a processor that transformers reads: {reason}") from None
    image = int(config.image_token_id)
    stop = _stop(place, config, where)
    if not alone:
        return Texts(files.id, processor, image, stop)
    if processor.chat_template is None:  # it belonged to the processor
        with contextlib.suppress(Absent, KeyError):
            processor.chat_template = read_json(files.locate("chat_template.json"))["chat_template"]
    front, behind = (_ids(files.id, processor, names) for names in AROUND[kind])
    return Texts(files.id, processor, image, stop, (front, behind))


def _ids(id: str, tokenizer: Any, names: Names) -> tuple[int, ...]:
    """Raises ModelError where the tokenizer has no such token."""
    tokens = [getattr(tokenizer, name, default) for name, default in names]
    if absent := [token for token in tokens if token not in tokenizer.get_vocab()]:
        raise ModelError(f"the tokenizer of {id} must have {absent[0]}, which stands beside an image; is it its own?")
    return tuple(tokenizer.convert_tokens_to_ids(tokens))


def collapsed(ids: list[int], image: int) -> list[int]:
    """Each run of image ids becomes one.

    >>> collapsed([1, 3, 3, 3, 5, 3], 3)
    [1, 3, 5, 3]
    """
    return [id for at, id in enumerate(ids) if id != image or at == 0 or ids[at - 1] != image]


def _stop(place: str, config: Any, where: Mapping[str, Any]) -> tuple[int, ...]:
    """As transformers' generate takes them: generation_config.json, else the config."""
    from transformers import GenerationConfig

    try:
        given = GenerationConfig.from_pretrained(place, **where).eos_token_id
    except OSError:
        given = None
    for one in (given, getattr(config.get_text_config(), "eos_token_id", None), getattr(config, "eos_token_id", None)):
        if one is not None:
            return tuple(one) if isinstance(one, (list, tuple)) else (int(one),)
    return ()
