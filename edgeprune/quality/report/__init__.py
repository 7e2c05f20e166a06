"""A bundle or a sweep as one HTML file: no network, readable on a phone, light and dark.

write_report(describe_bundle(folder), Path("report.html"))
"""

from edgeprune.quality.report.bundle import describe_bundle
from edgeprune.quality.report.page import Fact, Gallery, Page, Section, Table, write_report
from edgeprune.quality.report.sweep import describe_sweep

__all__ = ["Fact", "Gallery", "Page", "Section", "Table", "describe_bundle", "describe_sweep", "write_report"]
