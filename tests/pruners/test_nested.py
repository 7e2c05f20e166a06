"""Kept sets that nest: what a budget of 32 keeps are the first 32 picks of a budget of 64, on every probe."""

from __future__ import annotations

import numpy as np
import pytest

from edgeprune import pruners
from edgeprune.runtime.budgets import first_picks
from edgeprune.runtime.parity import compare
from tests.covering import always, of_methods
from tests.device import of_probes

KEEP, FEWER = 64, 32
NESTED = [name for name in pruners.names() if pruners.get(name).traits.nested]


def greedy(name: str) -> bool:
    return bool(of_probes().method(name).rule(144)["name"] == "greedy")


def test_the_methods_that_say_so() -> None:
    assert NESTED == [
        "cdpruner",
        "covipal",
        "divprune",
        "dpp",
        "entropyprune",
        "fastervlm",
        "focusui",
        "forestprune",
        "hawk",
        "idpruner",
        "idselection",
        "mmtok",
        "otprune",
        "random",
        "scope",
        "score",
        "segpruner",
        "todre",
        "zoo",
    ]


@pytest.mark.parametrize("form", always(["traced", "official"], "traced"))
@pytest.mark.parametrize("name", of_methods(NESTED, "dpp", "scope"))
def test_a_smaller_budget_keeps_the_first_picks(name: str, form: str) -> None:
    device = of_probes()
    traced = {keep: device.healthy(name, "float32", keep) for keep in (KEEP, FEWER)}
    whole, few = (traced[keep] if form == "traced" else device.reference(name, keep)[0] for keep in (KEEP, FEWER))
    np.testing.assert_array_equal(few["picks"], whole["picks"][:, :FEWER])
    cut = first_picks(whole, FEWER, greedy(name))
    np.testing.assert_array_equal(cut["indices"], few["indices"])
    np.testing.assert_allclose(cut["scores"], few["scores"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(cut["tokens"], few["tokens"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("keep", always([1, 8, 24, KEEP], 24))
@pytest.mark.parametrize("precision", always(["float32", "float16"], "float16"))
@pytest.mark.parametrize("name", of_methods(NESTED, "dpp", "scope"))
def test_parity_holds_at_several_budgets_of_one_graph(name: str, precision: str, keep: int) -> None:
    device = of_probes()
    (whole, quantities), run = device.reference(name, KEEP), device.healthy(name, precision, KEEP)
    wanted, got = (first_picks(one, keep, greedy(name)) for one in (whole, run))
    verdict = compare(wanted, got, precision, device.method(name, KEEP).rule(144), quantities)
    assert not verdict.reasons
