"""Facts about the project's own files: packaging, workflows, templates."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

import finetune

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_version_changelog_and_citation_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == finetune.__version__
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "Unreleased"
    assert set(headings) <= {"Unreleased", *headings[1:]}


def test_every_dependency_has_a_lower_bound() -> None:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for requirement in [line for group in groups for line in group]:
        if not requirement.startswith("finetune-photos["):
            assert re.search(r">=|==", requirement), requirement


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_scripts_that_exist(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    steps = [step for job in workflow["jobs"].values() for step in job.get("steps", ())]
    commands = "\n".join(step.get("run", "") for step in steps)
    for script in re.findall(r"\bscripts/([a-z-]+)", commands):
        assert (ROOT / "scripts" / script).is_file(), script


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_unless_a_job_says_so(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        for step in job.get("steps", ()):
            if str(step.get("uses", "")).startswith("actions/checkout"):
                assert step["with"]["persist-credentials"] is False


def test_every_supported_python_is_tested() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert f">={tested[0]}" == PROJECT["requires-python"]


def test_a_bug_report_asks_for_version_and_doctor() -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text())
    text = str(form["body"])
    assert "finetune --version" in text
    assert "finetune doctor" in text


def test_every_dependency_is_accounted_for() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    optional = PROJECT["optional-dependencies"]
    groups = [PROJECT["dependencies"], *(optional[name] for name in optional if name != "test")]
    for requirement in [line for group in groups for line in group]:
        name = re.split(r"[^A-Za-z0-9-]", requirement)[0]
        if "lite0" in name or "lite1" in name or requirement.startswith("finetune-photos["):
            continue
        assert name in page, f"{name} is missing"
    for name in re.findall(r"^\| ([a-z0-9, -]+) \|", page.split("## Extras")[0], re.M):
        for package in name.split(", "):
            stated = [line for line in PROJECT["dependencies"] if line.startswith(package)]
            assert stated or package == "package", f"{package} is no dependency"
