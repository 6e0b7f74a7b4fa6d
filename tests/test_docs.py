"""README and docs: every block of Python runs, every link and every file, recipe and make target named exists."""

import re
from pathlib import Path

import pytest

from spikeloom.recipes import RECIPES

ROOT = Path(__file__).parents[1]
# Tutorials run too, at toy size: see test_tutorials.py.
EXECUTED = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*EXECUTED, *(ROOT / "docs").glob("*/**/*.md"), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
BLOCK = re.compile(r"^```(\S*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(page):
    return str(page.relative_to(ROOT))


def blocks(text):
    """(first line, source) of each block of Python."""
    for found in BLOCK.finditer(text):
        assert found[1], f"a block without a language, after {text[: found.start()][-60:]!r}"
        if found[1] == "python":
            assert not found[2], f"```python{found[2]}: a block of Python runs, without options"
            yield text.count("\n", 0, found.start(3)), found[3]


def run(text, page):
    namespace = {"__name__": "__main__"}
    for line, source in blocks(text):
        # The padding makes line numbers of an error those of the page.
        exec(compile("\n" * line + source, page, "exec"), namespace)
    return namespace


# Lightning warns about what a small example rightly leaves out: workers, loggers, a validation set.
@pytest.mark.filterwarnings("ignore::UserWarning:lightning.*")
@pytest.mark.parametrize("page", EXECUTED, ids=name)
def test_every_block_of_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(list(blocks(page.read_text()))) > 0
    run(page.read_text(), str(page))


def test_a_page_with_an_error_would_fail():
    page = "text\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as failed:
        run(page, "page.md")
    assert failed.traceback[-1].lineno + 1 == 8
    with pytest.raises(AssertionError, match="without options"):
        run("```python no-run\nx\n```\n", "page.md")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_exist(page):
    named = re.findall(r"`((?:src|tests|docs)/[^`*]*|[\w/]+\.(?:py|toml|md))`", page.read_text())
    assert [f for f in named if not ((ROOT / f).exists() or (ROOT / "src/spikeloom" / f).exists())] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_that_are_named_exist(page):
    text = page.read_text()
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE)) - {*targets} == set()
    assert set(re.findall(r"spikeloom train ([a-z][a-z-]+)", text)) <= set(RECIPES)


def test_every_public_name_is_in_the_reference():
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    shown = re.findall(r"^::: spikeloom\.(\w+)", pages, re.MULTILINE)
    source = (ROOT / "src" / "spikeloom" / "__init__.py").read_text()
    public = re.findall(r"^from \.\S* import \w+ as (\w+)$", source, re.MULTILINE)
    assert len(public) > 40 and set(public) - set(shown) == set()


def test_every_page_of_the_site_is_in_its_navigation():
    import yaml

    named = re.findall(r"[\w/-]+\.md", str(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(named) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


def test_doctests_become_blocks_of_code():
    pytest.importorskip("griffe", reason="the docs extra is not installed")
    import importlib.util

    spec = importlib.util.spec_from_file_location("docstrings", ROOT / "docs" / "hooks" / "docstrings.py")
    docstrings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(docstrings)
    text = "Adds::\n\n    a + b\n\n>>> 1 + 1\n2\n\nSource: Peano."
    fenced = "Adds:\n\n    a + b\n\n```pycon\n>>> 1 + 1\n2\n```\n\nSource: Peano."
    assert docstrings.fenced(text) == fenced


def test_the_readme_names_targets_and_recipes():
    text = (ROOT / "README.md").read_text()
    assert {"make demo", "make test"} <= set(re.findall(r"make \w+", text))
    assert all(f"spikeloom train {recipe}" in text for recipe in RECIPES)


def test_the_project_names_no_place_on_one_machine():
    found = [name(page) for page in PAGES if re.search(r"(?<![\w.])/(?:work|home|tmp|root)/", page.read_text())]
    assert found == []
