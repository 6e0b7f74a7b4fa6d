"""The report: one file that needs no other, with the numbers of metrics.json, and pictures of the run."""

import base64
import html.parser
import io
import json
import re

import pytest
import torch

pytest.importorskip("lightning", reason="reports need the extra spikeloom[train]")
import matplotlib.image

from experiments import Small
from spikeloom.training import settings, write_report
from spikeloom.training.fitting import fit, make_task
from spikeloom.training.report import numbers, page


class Reader(html.parser.HTMLParser):
    """Collects the images and cells of a page, and checks that every element is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.images, self.cells, self.links = [], {}, [], []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.links += [value for key, value in attributes if key in ("src", "href")]
        if tag == "img":
            self.images[found["alt"]] = found["src"]
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th", "pre", "h1"):
            self.cells.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    experiment = Small(epochs=2, validation=0.1)
    fitted = fit(experiment, directory)
    return experiment, fitted, directory, write_report(experiment, fitted, directory, "spikeloom train <small>")


def test_metrics_have_what_was_asked_for(run):
    experiment, fitted, directory, metrics = run
    assert json.loads((directory / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert metrics["test_accuracy"] == fitted.test["test_accuracy"]
    assert metrics["validation_accuracy"] == fitted.rows[-1]["validation_accuracy"]
    assert metrics["epochs"] == 2
    assert metrics["seed"] == 0
    assert metrics["seconds"] == pytest.approx(fitted.seconds, abs=1e-3)
    assert metrics["parameters"] == 8 * 6 + 6 * 2 + 1  # the learned tau_mem is one for all neurons
    assert metrics["engines"] == {"1": "cpu", "2": "cpu"}
    assert metrics["settings"] == settings(experiment)
    assert metrics["versions"]["torch"] == torch.__version__


def test_the_page_holds_everything_itself(run):
    experiment, _, directory, metrics = run
    reader = read((directory / "report.html").read_text())
    assert all(link.startswith("data:image/png;base64,") for link in reader.links)
    assert set(reader.images) == {
        "Training: loss",
        "Test set",
        "1.connection: weight",
        "2.connection: weight",
        "1.neuron: tau_mem",
        "One sample: input spikes",
        "One sample: spikes of layer 1",
        "One sample: first neurons of layer 1",
        "One sample: first neurons of layer 2",
    }
    for source in reader.images.values():
        picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(source.split(",", 1)[1])), format="png")
        assert picture[..., :3].min() < 0.7, "something is drawn"
    assert f"{100 * metrics['test_accuracy']:.2f} %" in reader.cells
    assert "spikeloom train <small>" in reader.cells
    for key, value in settings(experiment).items():
        assert reader.cells[reader.cells.index(key) + 1] == str(value)


def test_before_training_is_what_the_seed_gives(run):
    experiment, fitted, _, _ = run
    one, two = (make_task(experiment, fitted.splits).network.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    after = fitted.task.network.state_dict()
    assert not torch.equal(one["1.connection.weight"], after["1.connection.weight"])


def test_text_is_escaped():
    text = page("<b>", {"a": "<script>"}, {"k": "&"}, [], "x > y")
    assert "<script>" not in text
    reader = read(text)
    assert reader.cells == ["<b>", "a", "<script>", "k", "&", "x > y"]
    assert re.search(r"<title>&lt;b&gt;</title>", text)


def test_numbers_are_rounded_for_reading():
    shown = numbers(
        {"test_accuracy": 0.98765, "test_accuracy_std": 0.001, "lr": 0.0123456, "engines": {}, "command": "c"}
    )
    assert shown == {"test accuracy": "98.77 %", "test accuracy std": "0.10 %", "lr": "0.01235"}
