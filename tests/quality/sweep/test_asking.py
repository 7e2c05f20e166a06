"""How a sweep makes a question into the rows that a graph reads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeprune.ports import TEXT, TEXT_MASK, words_ports
from edgeprune.quality.language import load_language
from edgeprune.quality.sweep.asking import asking

ROWS = 9


@pytest.mark.parametrize(("whole", "said"), [(False, "color square"), (True, "what color is the square?")])
def test_a_text_of_rows_is_the_keywords_or_where_a_port_says_so_the_whole_question(whole: bool, said: str) -> None:
    language = load_language()
    ports = {port.name: port.to_json() for port in words_ports(ROWS, whole=whole)}
    inputs = {TEXT: SimpleNamespace(shape=(1, ROWS, 128))}
    encoder: Any = SimpleNamespace(manifest=SimpleNamespace(method="mmtok", ports=ports, inputs=inputs))
    given, words = asking(language, encoder)("what color is the square?"), language.words(said).numpy()
    assert 1 < len(words) < ROWS
    np.testing.assert_array_equal(given[TEXT][: len(words)], words)
    assert not given[TEXT][len(words) :].any()
    assert given[TEXT_MASK].tolist() == [1.0] * len(words) + [0.0] * (ROWS - len(words))
