"""What the package says about itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

try:
    import tomllib
except ImportError:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
WHOLE: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT: dict[str, Any] = WHOLE["project"]


def test_the_citation_is_the_one_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    entry = readme[readme.index("@inproceedings{ben-artzy-schwartz-2024") :].partition("\n}")[0]
    (title,) = re.findall(r"\btitle += \{(.*)\},\n", entry)
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f'title: "{title.replace("{", "").replace("}", "")}"' in citation
    (arxiv,) = re.findall(r"arXiv:[0-9.]+", entry)
    assert arxiv in citation and arxiv[6:] in PROJECT["urls"]["Paper"]


def test_the_page_of_the_package_has_no_link_into_the_repository() -> None:
    hook = WHOLE["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    page = (ROOT / "README.md").read_text("utf-8")
    assert "](docs/tutorial.md)" in page and "](benchmarks/figures/map.png)" in page
    for each in hook["substitutions"]:
        page = re.sub(each["pattern"], each["replacement"], page)
    assert [to for to in re.findall(r"\]\(([^)]*)", page) if not to.startswith("https:")] == []
    assert "Tutorial" in page and "Map of layers" not in page


def test_licences_of_what_is_in_it_are_named() -> None:
    notice = (ROOT / "localprobe/report/web/NOTICE.txt").read_text("utf-8")
    assert "localprobe/report/web/NOTICE.txt" in PROJECT["license-files"]
    assert PROJECT["license"] == "Apache-2.0 AND ISC AND MIT AND Unlicense"
    for words in ("Permission to use, copy, modify, and/or distribute", "The MIT License"):
        assert words in notice


@pytest.mark.parametrize("extra", [*PROJECT["optional-dependencies"]])
def test_an_extra_has_both_ends_and_its_lowest_is_tested(extra: str) -> None:
    lowest = (ROOT / ".ci/lowest.txt").read_text("utf-8")
    for needed in PROJECT["optional-dependencies"][extra]:
        if needed.startswith("localprobe["):
            continue
        name, least, most = re.fullmatch(r"([a-z_-]+)>=([0-9.]+),<([0-9.]+)", needed).groups()  # type: ignore[union-attr]
        assert least and most
        if extra != "hf":  # which no test needs
            assert re.search(rf"^{name}=={least}(\.|$)", lowest, re.MULTILINE), needed


def test_every_python_that_is_named_is_supported() -> None:
    named = re.findall(r":: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE)
    assert f">={named[0]}" == PROJECT["requires-python"]
