"""Words and pictures as a prompt: by the processor's own chat template, and ids that number what the images give.

    messages     [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what color is it?"}]}]
    text         USER: <image>\\nwhat color is it? ASSISTANT:            by chat_template.jinja, in a sandbox of jinja2
    ids          1 53 3 4 ... with the image's id K times in the place of each placeholder

Nobody else counts: an engine that is given 63 ids for 64 tokens may answer, wrongly, without a word.

Source  huggingface/transformers@v5.23 utils/chat_template_utils.py: the names that a template may use
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from edgeprune.errors import BundleError, MissingPackageError, RequestError
from edgeprune.runtime.generate.folder import Folder
from edgeprune.runtime.text import read_tokenizer

__all__ = ["Chat", "expanded"]

TEMPLATE, TOKENIZER, SETTINGS = "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"
PLAIN = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "{{ image + '\\n' }}{% else %}{{ c['text'] }}{% endif %}{% endfor %}{{ ' ' }}{% endfor %}{{ 'ASSISTANT:' }}"
)
"""of LLaVA-1.5, where the checkpoint has none"""


class Chat:
    """The tokenizer and the chat template of an assembled model."""

    def __init__(self, folder: Folder) -> None:
        """Raises BundleError when the folder has no readable ones, MissingPackageError without tokenizers or jinja2."""
        self._folder, self._manifest = folder, folder.manifest
        self.tokenizer = read_tokenizer(folder.file(TOKENIZER), "assemble it again")
        settings = folder.read_json(SETTINGS) if SETTINGS in folder.manifest.files else {}
        self._special = {
            name: _text(settings.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")
        }
        has = TEMPLATE in folder.manifest.files
        source = folder.file(TEMPLATE).read_text(encoding="utf-8") if has else PLAIN
        self._template = _compiled(source, folder)

    def text(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt in words, one placeholder for each image. Raises BundleError when the template fails."""
        image = self.tokenizer.id_to_token(self._manifest.prompt.placeholder)
        try:
            text: str = self._template.render(
                messages=messages, add_generation_prompt=True, image=image, **self._special
            )
        except Exception as error:  # a template may raise what it likes
            raise BundleError(f"{self._folder.path / TEMPLATE} cannot write this prompt: {error}") from None
        return text

    def ids(self, messages: Sequence[Mapping[str, Any]], counts: Sequence[int]) -> tuple[int, ...]:
        """The prompt in ids, the image's id as often as each image has tokens.

        counts: tokens of each image, in the order in which they stand in the messages

        Raises RequestError when the template has not one placeholder for each image.
        """
        text, start = self.text(messages), self._special["bos_token"]
        given = self.tokenizer.encode(text, add_special_tokens=not (start and text.startswith(start))).ids
        return expanded(given, counts, self._manifest.prompt)

    def shortened(self, ids: Sequence[int]) -> list[int]:
        """A prompt with a single image id for each run of them."""
        image = self._manifest.prompt.image
        return [id for at, id in enumerate(ids) if id != image or at == 0 or ids[at - 1] != image]

    def decode(self, ids: Sequence[int]) -> str:
        """Without special tokens."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def pieces(self, ids: Iterable[int]) -> Iterable[str]:
        """The text of ids as they come; a character whose bytes are several tokens waits for its last one."""
        held: list[int] = []
        said = ""
        for id in ids:
            held.append(id)
            text = self.decode(held)
            if not text.endswith("�"):
                if text != said:
                    yield text[len(said) :]
                # What a tokenizer writes between words may hang on the word before: the last piece stays as context.
                held, said = held[-1:], self.decode(held[-1:])
        if held and (text := self.decode(held)) != said:
            yield text[len(said) :]


def expanded(ids: Sequence[int], counts: Sequence[int], prompt: Any) -> tuple[int, ...]:
    """ids with one placeholder for each image -> with as many image ids as its tokens.

    prompt: `folder.Prompt`. Raises RequestError when there are not as many placeholders as images.
    """
    places = sum(id == prompt.placeholder for id in ids)
    if places != len(counts):
        raise RequestError(
            f"the prompt must have one placeholder (token {prompt.placeholder}) for each image, got {places} for "
            f"{len(counts)}; leave the placeholder out of the question: the chat template writes it"
        )
    given, left = iter(counts), []
    for id in ids:
        left += [*prompt.before, *[prompt.image] * next(given), *prompt.after] if id == prompt.placeholder else [id]
    return tuple(left)


def _compiled(source: str, folder: Folder) -> Any:
    try:
        import jinja2
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingPackageError("jinja2", "generate", error) from None

    def fail(message: str) -> NoReturn:
        raise jinja2.exceptions.TemplateError(message)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    made.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    made.globals["raise_exception"] = fail
    made.globals["strftime_now"] = lambda format: datetime.datetime.now().strftime(format)
    try:
        return made.from_string(source)
    except jinja2.TemplateError as error:
        raise BundleError(f"{folder.path / TEMPLATE} is no template: {error}; assemble it again") from None


def _text(token: Any) -> str:
    """A special token in tokenizer_config.json: text, or an object with it."""
    return str(token.get("content", "")) if isinstance(token, dict) else token or ""
