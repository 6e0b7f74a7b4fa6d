"""The public names, the one-way order of imports, and what the house promises of its files."""

import ast
import graphlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import spikeloom as sl

PACKAGE = Path(sl.__file__).parent
REPOSITORY = Path(__file__).parents[1]

# A name that is added or taken away is a change of the interface: change this list with it, and the changelog.
PUBLIC = [
    *(
        "datasets",
        "plots",
        "ALIF",
        "ATan",
        "AdLIF",
        "BPTT",
        "Boxcar",
        "CubaALIF",
        "CubaLI",
        "CubaLIF",
        "Custom",
        "Dropout",
        "Erf",
        "EventSeries",
        "EventProp",
        "Events",
        "exact",
    ),
    *("Exponential", "FastSigmoid", "Fire", "Gaussian", "IF", "Input", "LI", "LIF", "Layer", "LayerState"),
    *("LogNormal", "MultiGaussian", "Neuron", "Noise", "Normal", "Param", "ReLU", "Run", "Sequential", "Sigmoid"),
    "Signal",
    *("Smooth", "State", "StraightThrough", "SuperSpike", "Surrogate", "Triangle", "Uniform", "between", "decoding"),
    *("detach", "diagnostics", "encoding", "initializers", "losses", "non_negative", "parameter_groups", "positive"),
    *("AdEx", "BRF", "CapturedStep", "CobaLIF", "EIF", "Izhikevich", "QIF", "RF", "Rate", "StochasticLIF"),
    *("EProp", "OTTT", "RTRL", "with_feedback"),
    *("Delayed", "anneal_delays", "round_delays"),
    *("plasticity", "regularizers", "run", "STDP", "time_constant", "unconstrained", "unit_interval"),
]

# A module imports from its own level or from lower ones. `import spikeloom` itself stands on ROOT.
ORDER = [
    {"zero", "constraints", "distributions", "capture", "unchanged"},
    {"parameters", "surrogates", "fire"},
    {"neurons"},
    {"engine"},
    {"event_storage"},
    {"connections"},
    {"gradients", "events"},
    {"network"},
    {
        "encoding",
        "decoding",
        "losses",
        "regularizers",
        "initializers",
        "activity",
        "diagnostics",
        "plots",
        "datasets",
        "exact",
        "plasticity",
    },
    {"signal"},
    {"event_series"},
    {"training"},
    {"recipes"},
    {"explain", "doctor"},
    {"cli", "__main__"},
]
ROOT = 10
HEAVY = (
    "lightning",
    "torchmetrics",
    "matplotlib",
    "sklearn",
    "tensorboard",
    "rich",
    "numba",
    "triton",
    "scipy",
    "pandas",
    "torch._dynamo",
)

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(f.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").strip("."): f for f in FILES}


def level(module):
    top = module.partition(".")[0]
    found = [k for k, names in enumerate(ORDER) if top in names]
    assert found or not top, f"{top} has no level; give it one in ORDER"
    return found[0] if top else ROOT


def imports(module):
    """Modules of the package that a module imports, at any depth of its code, for type checking too."""
    package = module.split(".") if MODULES[module].name == "__init__.py" else module.split(".")[:-1]
    package = [part for part in package if part]
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name.split(".") for alias in node.names]
            yield from (".".join(parts[1:]) for parts in found if parts[0] == "spikeloom")
        elif isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".") if node.module else []
            if node.level:
                base = package[: len(package) - node.level + 1] + parts
            elif parts[:1] == ["spikeloom"]:
                base = parts[1:]
            else:
                continue
            for alias in node.names:
                inner = ".".join([*base, alias.name])
                yield inner if inner in MODULES else ".".join(base)


def public_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    return sorted(alias.asname or alias.name for n in tree.body if isinstance(n, ast.ImportFrom) for alias in n.names)


def public_objects():
    for name in public_names():
        thing = getattr(sl, name)
        if inspect.ismodule(thing):
            inner = getattr(thing, "__all__", [n for n, v in vars(thing).items() if _ours(v) and not n.startswith("_")])
            yield from ((f"{name}.{n}", getattr(thing, n)) for n in inner)
        else:
            yield name, thing


def _ours(thing):
    return callable(thing) and thing.__module__.startswith("spikeloom.")


def test_the_public_names_are_these():
    assert public_names() == sorted(PUBLIC)
    assert len(set(PUBLIC)) == len(PUBLIC)


def test_every_public_class_and_function_is_documented():
    found = [(name, thing) for name, thing in public_objects() if callable(thing)]
    assert len(found) > 40
    own = {n: vars(t).get("__doc__") if inspect.isclass(t) else inspect.getdoc(t) for n, t in found}
    assert [name for name, text in own.items() if not (text and len(text) > 20)] == []


@pytest.mark.parametrize("module", list(MODULES))
def test_imports_run_one_way(module):
    upward = [other for other in imports(module) if level(other) > level(module)]
    assert upward == [], f"{module or 'spikeloom'} (level {level(module)}) imports from above"


def test_no_module_imports_itself_in_a_circle():
    graph = {name: set(imports(name)) - {name} for name in MODULES}
    assert len(graph["network.layer"]) > 3
    graphlib.TopologicalSorter(graph).prepare()


def test_the_order_would_notice():
    assert "engine" in set(imports("network.layer"))
    assert "" in set(imports("doctor"))
    assert {"datasets", "decoding"} <= set(imports("recipes.digits"))
    with pytest.raises(AssertionError, match="has no level"):
        level("helpers")


def test_files_are_short_and_named_for_what_is_in_them():
    lines = {f.name: f.read_text().count("\n") for f in [*FILES, *Path(__file__).parent.glob("*.py")]}
    long = {name: count for name, count in lines.items() if count > 400}
    assert long == {}
    assert not {"utils", "util", "helpers", "misc", "common"} & {f.stem for f in FILES}


def test_importing_spikeloom_imports_nothing_heavy():
    code = f"import sys, spikeloom; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").exists()


def test_the_version_is_the_one_in_the_metadata():
    assert f'version = "{sl.__version__}"' in (REPOSITORY / "pyproject.toml").read_text()
