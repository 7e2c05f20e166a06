"""Blocks are taken from a page as its reader copies them."""

from __future__ import annotations

import doctest

from tests import pages


def test_the_examples_are_true() -> None:
    failed, tried = doctest.testmod(pages)
    assert (failed, tried) == (0, 4)


def test_a_block_ends_at_a_fence_of_its_own_length() -> None:
    page = "````markdown\n```bash\nls\n```\n````\n"
    assert pages.blocks(page, "markdown") == ["```bash\nls\n```\n"]
    assert pages.blocks(page, "bash") == []
