"""Plots: what is drawn is what was given, and axes are named with their units."""

import io

import pytest
import torch

pytest.importorskip("matplotlib", reason="plots need the extra spikeloom[plot]")
import matplotlib

matplotlib.use("Agg")
import matplotlib.image
import matplotlib.pyplot as plt

from spikeloom import plots
from spikeloom.events import Events


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_raster_draws_each_spike_once_in_milliseconds():
    spikes = torch.zeros(10, 2, 3)
    spikes[4, 0, 1] = spikes[9, 1, 2] = spikes[0, 0, 0] = 1
    ax = plots.plot_raster(spikes, dt=2e-3, title="here")
    marks = {tuple(point) for point in ax.collections[0].get_offsets().round(9).tolist()}
    assert marks == {(8.0, 1.0), (18.0, 5.0), (0.0, 0.0)}
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")) == ("Time (ms)", "Neuron", "here")
    low, high = ax.get_xlim()
    assert low < 0 < 18 < high


def test_raster_of_events_equals_raster_of_the_dense_sample():
    dense = (torch.rand(20, 3, 7, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    one = plots.plot_raster(Events.from_dense(dense), sample=2).collections[0].get_offsets()
    two = plots.plot_raster(dense[:, 2]).collections[0].get_offsets()
    assert sorted(map(tuple, one.tolist())) == sorted(map(tuple, two.tolist()))


def test_raster_of_silence_is_empty():
    ax = plots.plot_raster(torch.zeros(5, 3))
    assert len(ax.collections[0].get_offsets()) == 0


def test_traces_share_a_scale_and_stand_on_their_own_lines():
    values = torch.tensor([[0.0, 0.0], [2.0, 1.0], [0.5, 0.0]])
    ax = plots.plot_traces({"membrane": values, "current": 3 * values}, dt=1e-3, units={"current": "nA"}, threshold=1.0)
    lines = [line for line in ax.lines if len(line.get_xdata()) == 3]
    assert lines[0].get_xdata().tolist() == [1, 2, 3]
    rise = [float(line.get_ydata()[1] - line.get_ydata()[0]) for line in lines]
    assert rise == pytest.approx([0.8, 0.4, 0.8, 0.4])
    assert [float(line.get_ydata()[0]) for line in lines] == [0, 1, 0, 1]
    assert all(line.get_ydata().max() - line.get_ydata().min() < 1 for line in lines), "no overlap"
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["membrane (scale bar 2)", "current (scale bar 5 nA)"]
    dotted = [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":"]
    assert dotted == pytest.approx([0.4, 1.4])


def test_constant_traces_draw():
    ax = plots.plot_traces(torch.ones(5, 2))
    assert len([line for line in ax.lines if len(line.get_xdata()) == 5]) == 2


@pytest.mark.parametrize(("span", "bar"), [(1.0, 1), (0.99, 0.5), (7.3, 5), (0.0234, 0.02), (0.0, 1), (1e-3, 1e-3)])
def test_scale_bars_are_round(span, bar):
    assert plots._round_scale(span) == pytest.approx(bar)


def test_training_curves_count_epochs_from_one():
    ax = plots.plot_training_curves({"training": [3.0, 2.0], "validation": [4.0, 3.0]}, ylabel="Loss", log=True)
    assert list(ax.lines[1].get_xdata()) == [1, 2]
    assert list(ax.lines[1].get_ydata()) == [4.0, 3.0]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("Epoch", "Loss", "log")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "validation"]


def test_histograms_count_everything_on_the_same_bins():
    generator = torch.Generator().manual_seed(0)
    before = 0.02 + 0.001 * torch.randn(40, generator=generator)
    after = 0.03 + 0.002 * torch.randn(60, generator=generator)
    ax = plots.plot_parameter_histograms(before, after, name="tau_mem", unit="s", bins=20)
    assert sum(bar.get_height() for bar in ax.patches) == 100
    assert ax.patches[0].get_x() == ax.patches[20].get_x()
    assert ax.get_xlabel() == "tau_mem (ms)"
    ax = plots.plot_parameter_histograms(torch.full((4,), 0.02), after, name="tau_mem", unit="s")
    assert ax.lines[0].get_xdata()[0] == pytest.approx(20)


def test_confusion_matrix_rows_are_true_classes():
    ax = plots.plot_confusion_matrix(torch.tensor([[8, 2, 0], [0, 0, 0], [1, 0, 3]]), ["a", "b", "c"])
    places = {text.get_position(): text.get_text() for text in ax.texts}
    assert places == {(0, 0): "8", (1, 0): "2", (0, 2): "1", (2, 2): "3"}
    shade = ax.images[0].get_array()
    assert shade[0, 0] == pytest.approx(0.8)
    assert shade[2, 2] == pytest.approx(0.75)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Predicted class", "True class")


def test_given_axes_are_used_and_no_figure_is_made():
    axes = plt.figure().subplots(1, 5)
    drawn = [
        plots.plot_raster(torch.eye(3), ax=axes[0]),
        plots.plot_traces(torch.rand(4, 2), ax=axes[1]),
        plots.plot_training_curves({"a": [1.0]}, ax=axes[2]),
        plots.plot_parameter_histograms(torch.rand(3), torch.rand(3), ax=axes[3]),
        plots.plot_confusion_matrix(torch.eye(2), ax=axes[4]),
    ]
    assert drawn == list(axes)
    assert len(plt.get_fignums()) == 1


def test_png_is_a_picture_and_the_figure_is_closed():
    picture = plots.as_png(plots.plot_raster(torch.eye(5)))
    pixels = matplotlib.image.imread(io.BytesIO(picture), format="png")
    assert pixels[..., :3].min() < 0.5 < pixels[..., :3].mean()
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("draw", "sentence"),
    [
        (lambda: plots.plot_raster(torch.ones(4)), r"shape \[4\]; expected one sample \[T, \*N\]"),
        (lambda: plots.plot_raster(Events.from_dense(torch.ones(4, 2, 3)), sample=2), "sample=2; expected 0 to 1"),
        (lambda: plots.plot_traces(torch.ones(4, 2, 3)), r"expected \[T, neurons\]"),
        (lambda: plots.plot_traces({"a": torch.ones(4, 2), "b": torch.ones(4, 3)}), "same for every quantity"),
        (lambda: plots.plot_traces({}), r"expected \[T, neurons\]"),
        (lambda: plots.plot_parameter_histograms(torch.ones(0), torch.ones(2)), "expected values in both"),
        (lambda: plots.plot_confusion_matrix(torch.ones(2, 3)), r"\[classes, classes\]"),
        (lambda: plots.plot_confusion_matrix(torch.ones(2, 2), ["a"]), "1 class names"),
    ],
)
def test_refusals(draw, sentence):
    with pytest.raises(ValueError, match=sentence):
        draw()
