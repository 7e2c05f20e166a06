"""Parity as a certificate: the decisions of a device, judged one by one by the reference's numbers. No torch."""

from edgeprune.runtime.parity.verdict import BOUNDS, RULES, Verdict, compare, worst

__all__ = ["BOUNDS", "RULES", "Verdict", "compare", "worst"]
