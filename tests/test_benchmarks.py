"""The benchmark: a quick run of all its works, what it says of systems that fail, and the probe before the timing."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import environments, figures, memory, systems, table
from benchmarks.prepared import ProbeError, finite, gain, probe
from benchmarks.process import Process, WorkerError
from benchmarks.systems import SYSTEMS, System
from benchmarks.timing import Results, Row
from benchmarks.work import WORKS, Case

SMALL = Case("small", "neuron", steps=30, batch=4, hidden=16)


def broken(runner="no_such_runner", environment="own"):
    return System("broken", "Broken", "eager", environment, runner, "none", "none")


def test_a_quick_run_times_every_work_and_lists_what_fails(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(SYSTEMS, "broken", broken())
    words = ["--quick", "--systems", "spikeloom-dense,broken", "--threads", "1", "--out", str(tmp_path)]
    assert command.main(words) == 0
    (page,), (record,) = tmp_path.glob("*-quick.md"), tmp_path.glob("*-quick.json")
    text, data = page.read_text(), json.loads(record.read_text())
    reason = "none: ModuleNotFoundError: No module named 'benchmarks.runners.no_such_runner'"
    for work in WORKS.values():
        assert f"## ({work.letter}) {work.title}" in text
        for case in work.quick:
            section = text.split(f"### {case.label}: {case.sizes}")[1].split("\n##")[0]
            names = re.findall(r"^\| (?!---|system)([^|]+) \|", section, re.MULTILINE)
            assert names == ["floor", "**spikeloom, dense**", "Broken"]
            assert reason in section
    rows = [row for row in data["rows"] if row["system"] == "spikeloom-dense"]
    assert len(rows) == sum(len(work.quick) for work in WORKS.values())
    assert all(row["samples"] and min(row["samples"]) >= 0 and row["first"] > 0 for row in rows)
    assert all(0.005 < row["rate"] < 0.5 and row["remark"] for row in rows)
    assert data["versions"]["spikeloom-dense"]["torch"]
    assert next(tmp_path.glob("*-quick.png")).stat().st_size > 10_000
    assert "Broken: ModuleNotFoundError" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--work a,g", "There is no work 'g'. Works: a, b, c, d, e, f; write --work a,b."),
        ("--systems snn", "There is no system 'snn'. Systems: floor, spikeloom-eager, "),
        ("--repeats 0", "--repeats got 0; expected a number above 0."),
        ("--threads -2", "--threads got -2; expected a number above 0."),
    ],
)
def test_misuse_is_a_sentence(words, sentence, capfd):
    assert command.main(words.split()) == 2
    assert sentence in capfd.readouterr().err


def test_a_word_names_a_system_or_a_family():
    assert [s.name for s in systems.chosen(["jax"])] == ["floor", "jax"]
    assert {"spikeloom-eager", "spikeloom-dense", "spikeloom-events"} < {s.name for s in systems.chosen(["spikeloom"])}
    assert systems.chosen([]) == list(SYSTEMS.values())


def test_a_worker_that_ends_or_stays_silent_is_given_up():
    process = Process(broken(), threads=1, patience=60)
    process.child.kill()
    with pytest.raises(WorkerError, match="the worker was ended by signal 9"):
        process.receive()
    process = Process(broken(), threads=1, patience=0.001)
    with pytest.raises(WorkerError, match=r"no answer within 0\.001 s"):
        process.receive()
    assert process.child.poll() is not None


def test_a_missing_environment_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    with pytest.raises(WorkerError, match=r"no environment 'torch' \(it has not been made\); write: make bench-peers"):
        Process(broken(environment="torch"), threads=1, patience=60)
    assert environments.python("own") == sys.executable
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "failed").write_text("ERROR: No matching distribution found for spyx==1.0.0")
    with pytest.raises(FileNotFoundError, match=r"no environment 'jax' \(ERROR: No matching distribution found for"):
        environments.python("jax")


def test_peers_are_pinned():
    for file in Path(environments.REQUIREMENTS).glob("*.txt"):
        lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
        assert lines and all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), file.name


class Leaky:
    """A few honest neurons in numpy, with defects to order."""

    def __init__(self, **defects):
        self.defects = defects

    def hidden(self, x):
        if self.defects.get("swapped"):
            return self.hidden_([*x.swapaxes(0, 1)]).swapaxes(0, 1)
        if self.defects.get("leaking"):
            x = x + 0.3 * x.mean(1, keepdims=True)
        if self.defects.get("peeking"):
            x = x[::-1]
        return self.hidden_([*x])[:: -1 if self.defects.get("peeking") else 1]

    def hidden_(self, x):
        v, trace = np.zeros_like(x[0]), []
        for x_t in x:
            v = self.defects.get("decay", 0.9) * v + x_t
            trace.append((v > self.defects.get("threshold", 1.0)).astype(np.float32))
            v = v - trace[-1]
        return np.stack(trace)


def test_the_probe_lets_honest_neurons_pass():
    rate = probe(Leaky(), SMALL)
    assert rate is not None
    assert 0.1 < rate < 0.5


@pytest.mark.parametrize(
    ("defects", "sentence"),
    [
        ({"decay": 0.0, "threshold": 1.5}, "time is not stepped"),
        ({"swapped": True}, "time is not stepped|other spikes than in a batch"),
        ({"leaking": True}, "a sample alone gave other spikes"),
        ({"peeking": True}, "changed spikes before it"),
        ({"threshold": 20.0}, "time is not stepped|outside of 0.5 %"),
        ({"threshold": -5.0}, "outside of 0.5 % to 50 %|time is not stepped"),
    ],
    ids=str,
)
def test_the_probe_sees_neurons_that_cheat(defects, sentence):
    # What is reset by subtraction remembers even without a leak, so the memoryless neuron must lose its reset too.
    cheat = Leaky(**defects)
    if defects.get("decay") == 0.0:
        cheat.hidden_ = lambda x: (np.stack(x) > 1.5).astype(np.float32)
    with pytest.raises(ProbeError, match=sentence):
        probe(cheat, SMALL)


def test_weights_that_overflowed_are_told():
    finite([np.ones(3)])
    with pytest.raises(ProbeError, match="the weights are not finite after one training step"):
        finite([np.ones(3), np.array([1.0, np.nan])])


def test_the_gain_gives_the_rate():
    x = np.random.default_rng(0).standard_normal(100_000)
    factor = gain(lambda factor: float((factor * x > 1).mean()))
    assert (factor * x > 1).mean() == pytest.approx(0.1, abs=2e-3)


def test_peak_memory_sees_what_is_freed_again():
    size = 64 * 2**20
    risen, how = memory.peak(lambda: bytes(bytearray(b"x" * (size // 2))) and None)
    assert risen > size * 0.9, how


def test_ratios_and_rivals():
    rows = [
        Row("a", "density 0.05", "floor", [0.06, 0.07, 0.05]),
        Row("a", "density 0.05", "spikeloom-eager", [0.3]),
        Row("a", "density 0.05", "spikeloom-dense", [0.07, 0.08, 0.09]),
        Row("a", "density 0.05", "jax", [0.24]),
        Row("a", "density 0.05", "snntorch", [0.5]),
        Row("a", "density 0.05", "snntorch-parallel", [0.1]),  # another neuron: no rival
        Row("a", "density 0.05", "norse", reason="gone | away"),
        Row("b", "density 0.05", "floor", [0.066]),
        Row("b", "density 0.05", "spikeloom-dense", [0.088]),
    ]
    short = rows[:7]
    assert figures.ratio(rows[2], short) == pytest.approx(0.08 / 0.06)
    assert figures.spread(rows[0]) == pytest.approx((0.055, 0.065))
    found = {(r.ours, r.kind): (r.peer, round(r.times, 2)) for r in figures.rivalries(short)}
    assert found == {
        ("spikeloom-dense", "eager"): ("snntorch", 6.25),
        ("spikeloom-dense", "jitted"): ("jax", 3.0),
    }
    works = [WORKS["a"], WORKS["b"]]
    page = table.page(Results(rows), works, list(SYSTEMS.values()), {"machine": "this one"}, quick=False)
    assert "| **spikeloom, dense** | 80 ms | 75 ms to 85 ms | 1.33 |" in page
    assert "| Norse | none: gone / away |" in page
    assert "- spikeloom, dense: 6.2 times as fast as snnTorch, the fastest eager peer" in page
    assert "| **spikeloom, dense** | 1.10 |" in page


def test_the_bandwidth_of_a_copy_and_of_neurons():
    case = Case("x", "neuron", steps=100, batch=80, hidden=125, copy=10**6)  # a million neuron-steps
    assert figures.bandwidth(Row("d", "x", "floor", [1e-3]), case) == pytest.approx(8)
    assert figures.bandwidth(Row("d", "x", "spikeloom-dense", [5e-3]), case) == pytest.approx(4)
    assert figures.per_step(Row("d", "x", "spikeloom-dense", [5e-3]), case) == pytest.approx(5)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.5, "2.5 s"), (0.0999999, "100 ms"), (0.9999, "1 s"), (0.0312, "31.2 ms"), (4.2e-6, "4.2 µs")],
)
def test_durations(seconds, text):
    assert table.duration(seconds) == text
