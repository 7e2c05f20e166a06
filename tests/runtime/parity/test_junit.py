"""The JUnit report: what Jenkins' schema takes, with the words of the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgeprune.cli.tables.parity import parity_line
from edgeprune.errors import RequestError
from edgeprune.runtime.parity.junit import junit_xml, write_junit
from edgeprune.runtime.parity.verify import BackendReport, verify

MakeBundle = Callable[..., Path]

SCHEMA: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": ({"name", "tests", "failures", "errors"}, {"skipped", "time", "timestamp"}, {"testcase"}),
    "testcase": ({"name", "classname"}, {"time"}, {"skipped", "failure"}),
    "failure": ({"message", "type"}, set(), set()),
    "skipped": ({"message"}, {"type"}, set()),
}
"""element -> attributes that it must have, that it may have, and its children; after junit-10.xsd of
jenkinsci/xunit-plugin, and GitLab, which needs the class name of a case"""


def checked(text: str) -> ElementTree.Element:
    root = ElementTree.fromstring(text.encode())
    assert root.tag == "testsuites"
    for element in root.iter():
        must, may, children = SCHEMA[element.tag]
        assert must <= {*element.keys()} <= must | may, element.tag
        assert {child.tag for child in element} <= children
        for name, tag in (("tests", "testcase"), ("failures", "failure"), ("skipped", "skipped"), ("errors", "error")):
            assert element.get(name) in (None, str(len([*element.iter(tag)])))
    return root


def test_a_probe_that_agrees_is_a_case_that_passes(make_bundle: MakeBundle) -> None:
    root = checked(junit_xml("out/bundle", verify(make_bundle(), device="cpu")))
    assert root.attrib == {"name": "edgeprune verify", "tests": "2", "failures": "0", "errors": "0"}
    (suite,) = root
    assert suite.get("name") == "out/bundle on cpu float32"
    assert [case.attrib for case in suite] == [
        {"classname": "out/bundle.cpu.float32", "name": name} for name in ("scene00", "scene01")
    ]


def test_a_failure_has_the_words_of_the_terminal(make_bundle: MakeBundle) -> None:
    reports = verify(make_bundle(shift=1), device="cpu")
    root = checked(junit_xml("bundle", reports))
    failures = [*root.iter("failure")]
    assert len(failures) == 2
    said = parity_line(reports).replace("\\[", "[").splitlines()
    for failure in failures:
        assert failure.get("type") == "ParityError"
        assert failure.text is not None
        reasons = failure.text.splitlines()
        assert failure.get("message") == reasons[0]
        assert {f"  {reason}" for reason in reasons} <= set(said)


def test_a_backend_that_was_not_run_is_skipped_and_says_why() -> None:
    root = checked(junit_xml("bundle", [BackendReport("tensorrt", "float16", {}, not_run="no plan & no GPU")], [""]))
    ((case,),) = root
    assert (case.get("name"), case[0].tag, case[0].get("message")) == ("run", "skipped", "no plan & no GPU")


def test_what_was_not_decided_is_a_case_of_its_own_where_it_is_asked_for(make_bundle: MakeBundle) -> None:
    reports = verify(make_bundle(), device="cpu")
    for doubt, failures in (("", "0"), ("bundle is not proven on cpu", "1")):
        suite = checked(junit_xml("bundle", reports, [doubt]))[0]
        assert (suite[-1].get("name"), suite.get("failures")) == ("decided", failures)
    assert suite[-1][0].get("message") == "bundle is not proven on cpu"


def test_what_xml_cannot_hold_is_left_out(make_bundle: MakeBundle) -> None:
    (report,) = verify(make_bundle(), device="cpu")
    worst = dataclasses.replace(report.worst, reasons=("\x1b[31m<red> & \ud800", 'say "no"'))
    root = checked(junit_xml("a\x00b", [dataclasses.replace(report, probes={"scene\x07": worst})]))
    (failure,) = root.iter("failure")
    assert failure.text == '?[31m<red> & ?\nsay "no"'
    assert root[0][0].attrib == {"classname": "a?b.cpu.float32", "name": "scene?"}


def test_a_file_that_cannot_be_written_is_refused(make_bundle: MakeBundle, tmp_path: Path) -> None:
    reports = verify(make_bundle(), device="cpu")
    with pytest.raises(RequestError, match=r"--junit .*nowhere/a\.xml cannot be written: No such file or directory"):
        write_junit(tmp_path / "nowhere" / "a.xml", "bundle", reports)
    write_junit(tmp_path / "a.xml", "bundle", reports)
    checked((tmp_path / "a.xml").read_text(encoding="utf-8"))
    assert (tmp_path / "a.xml").read_bytes().startswith(b'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites ')
