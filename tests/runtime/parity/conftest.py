"""A device to plant faults in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.device import Device


@pytest.fixture
def device() -> Device:
    from tests.device import of_scenes  # needs torch, which not every test here does

    return of_scenes()
