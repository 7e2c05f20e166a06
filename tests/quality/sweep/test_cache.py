"""What was computed, on disk: found again by its content, never taken from another version."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgeprune.errors import RequestError
from edgeprune.quality.sweep import cache as module
from edgeprune.quality.sweep.cache import Cache, stamp

ABOUT = {"method": "fastervlm", "keep": 8}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    found = Cache(tmp_path)
    found.open()
    return found


def test_a_value_is_found_by_what_it_depends_on(cache: Cache, tmp_path: Path) -> None:
    assert cache.get("cells", ABOUT) is None
    cache.put("cells", ABOUT, {"score": [1.0, 0.5]})
    again = Cache(tmp_path)
    again.open()
    assert again.get("cells", dict(reversed(ABOUT.items()))) == {"score": [1.0, 0.5]}
    assert again.get("cells", {**ABOUT, "keep": 9}) is None
    assert again.get("graphs", ABOUT) is None
    assert again.warnings == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1, "about": {}, "value": 3}'])
def test_a_damaged_file_is_named_and_computed_again(cache: Cache, text: str) -> None:
    cache.put("cells", ABOUT, 1)
    (file,) = (cache.folder / "cells").iterdir()
    file.write_text(text)
    assert cache.get("cells", ABOUT) is None
    assert cache.warnings == [f"{file} is damaged and not used; it is computed again"]
    cache.put("cells", ABOUT, 2)
    assert cache.get("cells", ABOUT) == 2


def test_a_file_under_the_name_of_another_is_not_taken_for_it(cache: Cache) -> None:
    cache.put("cells", ABOUT, 1)
    cache.put("cells", {**ABOUT, "keep": 9}, 2)
    one, other = sorted((cache.folder / "cells").iterdir())
    shutil.copy(one, other)
    assert [cache.get("cells", about) for about in (ABOUT, {**ABOUT, "keep": 9})].count(None) == 1


def test_a_cache_of_another_version_is_left_alone_and_named(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put("cells", ABOUT, 1)
    monkeypatch.setattr(module, "stamp", lambda: "9.9.9-new")
    newer = Cache(tmp_path)
    newer.open()
    assert newer.get("cells", ABOUT) is None
    (warning,) = newer.warnings
    assert f"{cache.folder} is of another version ({stamp()}, this is 9.9.9-new) and is not used" in warning
    assert cache.get("cells", ABOUT) == 1


def test_a_changed_source_is_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pruners/a.py", "quality/report/b.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(module, "files", lambda package: tmp_path)
    found = [stamp.__wrapped__()]
    (tmp_path / "quality/report/b.py").write_text("2")
    found.append(stamp.__wrapped__())
    (tmp_path / "pruners/a.py").write_text("2")
    found.append(stamp.__wrapped__())
    assert found[0] == found[1] != found[2]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(RequestError, match=r"cannot be made: .*; choose another --output"):
        Cache(tmp_path).open()
