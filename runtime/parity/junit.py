"""What `verify` found as a JUnit report, which Jenkins, GitLab and GitHub's actions show.

    testsuites
      testsuite   a backend, as `cpu float32`
        testcase  a probe; fails with the reasons that the terminal prints, skipped where the backend was not run

Only what all of them read is written.

Source  jenkinsci/xunit-plugin@031e285 .../types/model/xsd/junit-10.xsd; docs.gitlab.com/ci/testing/unit_test_reports
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from edgeprune.errors import RequestError
from edgeprune.runtime.parity.verify import BackendReport

__all__ = ["DECIDED", "junit_xml", "write_junit"]

DECIDED = "decided"
"""the case, beside the probes, of whether enough was decided, where that is asked for"""
COUNTED = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(bundle: str, reports: Sequence[BackendReport], doubts: Sequence[str] = ()) -> str:
    """bundle: its name

    doubts: of each report, why too little was decided, empty where enough was; none where that is not asked for
    """
    root = ElementTree.Element("testsuites", name="edgeprune verify")
    for at, report in enumerate(reports):
        where = f"{report.device} {report.dtype}"
        suite = ElementTree.SubElement(root, "testsuite", name=f"{_text(bundle)} on {where}")
        if report.not_run:
            _case(suite, bundle, where, "run", "skipped", (report.not_run,))
        for name, verdict in report.probes.items():
            _case(suite, bundle, where, name, "failure", verdict.reasons)
        if doubts and not report.not_run:
            _case(suite, bundle, where, DECIDED, "failure", (doubts[at],) if doubts[at] else ())
        _count(suite, [*COUNTED])
    _count(root, [name for name in COUNTED if name != "skipped"])  # which the schema does not have there
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def write_junit(path: Path, bundle: str, reports: Sequence[BackendReport], doubts: Sequence[str] = ()) -> None:
    """`junit_xml` as a file. Raises RequestError when it cannot be written."""
    text = junit_xml(bundle, reports, doubts)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"--junit {path} cannot be written: {error.strerror}; choose another file") from None


def _case(suite: ElementTree.Element, bundle: str, where: str, name: str, what: str, reasons: Sequence[str]) -> None:
    classname = f"{bundle}.{where}".replace(" ", ".")
    case = ElementTree.SubElement(suite, "testcase", classname=_text(classname), name=_text(name))
    if reasons:
        element = ElementTree.SubElement(case, what, message=_text(reasons[0]))
        if what == "failure":
            element.set("type", "ParityError")
            element.text = _text("\n".join(reasons))


def _count(element: ElementTree.Element, names: Sequence[str]) -> None:
    for name in names:
        element.set(name, str(sum(1 for _ in element.iter(COUNTED[name]))))


def _text(text: str) -> str:
    """Without what XML cannot hold."""
    return NOT_XML.sub("?", text)
