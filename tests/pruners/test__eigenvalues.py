"""Eigenvalues by rotations in a fixed order, against LAPACK's."""

from __future__ import annotations

import pytest
import torch

from edgeprune.pruners._eigenvalues import eigenvalues

CASES = {
    "random": torch.randn(20, 16, 16, generator=torch.Generator().manual_seed(0)).double(),
    "of few rows": torch.randn(20, 16, 3, generator=torch.Generator().manual_seed(1)).double(),
    "equal": torch.ones(20, 16, 1).double(),
    "huge": 1e6 * torch.randn(20, 16, 16, generator=torch.Generator().manual_seed(2)).double(),
    "zero": torch.zeros(20, 16, 1).double(),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 12, 16])
def test_they_are_those_of_lapack(case: str, size: int) -> None:
    rows = CASES[case][:, :size]
    matrices = rows @ rows.mT
    wanted = torch.linalg.eigvalsh(matrices)
    found = eigenvalues(matrices.float()).double().sort(dim=-1).values
    torch.testing.assert_close(found, wanted, rtol=0, atol=float(4e-6 * wanted.max()) + 1e-12)


def test_every_pair_meets_in_one_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix of which one pair alone is off the diagonal is done after a sweep, wherever the pair stands."""
    monkeypatch.setattr("edgeprune.pruners._eigenvalues.SWEEPS", 1)
    for first in range(5):
        for last in range(first + 1, 6):
            matrix = torch.diag(torch.arange(1.0, 7.0))
            matrix[first, last] = matrix[last, first] = 0.5
            wanted = torch.linalg.eigvalsh(matrix)
            torch.testing.assert_close(eigenvalues(matrix).sort().values, wanted, rtol=1e-5, atol=1e-6)
