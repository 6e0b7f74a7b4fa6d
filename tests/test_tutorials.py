"""Every tutorial runs at toy size; what its page shows is of the code that stands there; what is wrong is refused."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

HOOKS = Path(__file__).parents[1] / "docs" / "hooks"
spec = importlib.util.spec_from_file_location("tutorial", HOOKS / "tutorial.py")
tutorial = importlib.util.module_from_spec(spec)
sys.modules["tutorial"] = tutorial
spec.loader.exec_module(tutorial)

PAGES = {page.name: page for page in tutorial.pages()}

SMALL = """---
toy: {steps: 2}
---

Sum, after {{ steps }} steps.

```python
import matplotlib.pyplot as plt

steps = 1_000
total = sum(range(steps)) / 2
fig, ax = plt.subplots(figsize=(2, 2))
ax.plot(range(steps))
print("total", total)
```

![A line](small/line.png)

It is {{ total:.1f }}.

```python
unused = "{{ total }}"
```
"""


def small(tmp_path, text=SMALL):
    path = tmp_path / "small.md"
    path.write_text(text)
    return tutorial.Page.read(path)


# Lightning warns about what a small example rightly leaves out: workers, loggers, a validation set.
@pytest.mark.filterwarnings("ignore::UserWarning:lightning.*")
@pytest.mark.parametrize("name", PAGES)
def test_a_tutorial_runs_at_toy_size(name, tmp_path):
    if missing := PAGES[name].missing_data():
        pytest.skip(f"{name} needs {missing} in the directory that SPIKELOOM_DATA names")
    with tutorial.working_in(tmp_path / "work"):
        results = tutorial.run(PAGES[name], tmp_path / "pictures", toy=True)
    drawn = {path.name for path in (tmp_path / "pictures").glob("*.png")}
    shown = {Path(picture).name for block in PAGES[name].blocks() for picture in block.pictures}
    assert drawn == shown != set()
    tutorial.shown(PAGES[name], results)


@pytest.mark.parametrize("name", PAGES)
def test_the_results_of_a_tutorial_are_those_of_its_code(name):
    text = tutorial.shown(PAGES[name], tutorial.results_of(PAGES[name]))
    assert "| original |" in text.replace("| |", "|"), "a tutorial ends with what the original reported"
    kept = {path.name for path in (tutorial.TUTORIALS / name).iterdir()}
    shown = {Path(picture).name for block in PAGES[name].blocks() for picture in block.pictures}
    assert kept == shown | {"results.json"}


def test_pictures_and_results_stay_small():
    assert sum(path.stat().st_size for path in tutorial.TUTORIALS.rglob("*") if path.is_file()) < 1_000_000


def test_a_toy_replaces_values_and_nothing_else(tmp_path):
    page = small(tmp_path)
    toy = tutorial.run(page, tmp_path / "small", toy=True)
    assert toy["values"]["steps"] == 2 and toy["values"]["total"] == 0.5
    full = tutorial.run(page, tmp_path / "small", toy=False)
    assert full["values"]["total"] == 249750 and full["printed"] == ["total 249750.0\n", ""]
    assert (tmp_path / "small" / "line.png").read_bytes()[:4] == b"\x89PNG"
    shown = tutorial.shown(page, json.loads(json.dumps(full)))
    assert "Sum, after 1000 steps." in shown and "It is 249750.0." in shown and "toy:" not in shown
    assert "which took 0 s with" in shown
    resumed = tutorial.shown(page, full | {"seconds": None})
    assert "which went on where an earlier one was stopped, with" in resumed and "took" not in resumed
    assert '```text title="Output"\ntotal 249750.0\n```' in shown and '"{{ total }}"' in shown


def test_results_of_other_code_are_refused(tmp_path):
    page = small(tmp_path)
    results = tutorial.run(page, tmp_path / "small", toy=True)
    tutorial.shown(small(tmp_path, SMALL.replace("Sum,", "The sum,").replace("1_000", "1_000  # many")), results)
    with pytest.raises(tutorial.TutorialError, match="make tutorials PAGE=small"):
        tutorial.shown(small(tmp_path, SMALL.replace("1_000", "2_000")), results)
    with pytest.raises(tutorial.TutorialError, match="no results yet"):
        tutorial.results_of(small(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("toy: {steps: 2}", "toy: {sterps: 2}", "assigns no literal to these names"),
        ("steps = 1_000", "steps = int(1e3)", "assigns no literal to these names"),
        ("toy: {steps: 2}", "toys: {steps: 2}", "expected `toy:"),
        ("small/line.png", "other/line.png", "are in small/"),
        ("![A line](small/line.png)", "", "1 figures open and is followed by 0 pictures"),
        ("{{ total:.1f }}", "{{ sum }}", "no number or text to that name"),
    ],
)
def test_a_page_that_is_not_written_as_it_should_is_refused(tmp_path, old, new, sentence):
    page = small(tmp_path, SMALL.replace(old, new))
    with pytest.raises(tutorial.TutorialError, match=sentence):
        tutorial.shown(page, tutorial.run(page, tmp_path / "small", toy=True))


def test_an_error_has_the_line_of_the_page(tmp_path):
    page = small(tmp_path, SMALL.replace("total = ", "total = missing + "))
    with pytest.raises(NameError) as failed:
        tutorial.run(page, tmp_path / "small", toy=True)
    assert failed.traceback[-1].lineno + 1 == SMALL[: SMALL.index("total =")].count("\n") + 1
