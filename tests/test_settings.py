"""Settings: read as their type, written down, read again."""

import json
from dataclasses import dataclass
from typing import Literal

import pytest

from spikeloom import training
from spikeloom.training import settings, with_settings


@dataclass
class Kinds:
    whole: int = 1
    real: float = 0.5
    flag: bool = False
    text: str = "a"
    choice: Literal["x", "y"] = "x"
    maybe: float | None = None
    many: tuple[int, ...] = (1,)


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("whole=-3", -3),
        ("real=1e-3", 1e-3),
        ("real=2", 2.0),
        ("flag=true", True),
        ("flag=No", False),
        ("text=a=b", "a=b"),
        ("choice=y", "y"),
        ("maybe=0.1", 0.1),
        ("maybe=none", None),
        ("many=3,4", (3, 4)),
        ("many=", ()),
    ],
)
def test_settings_are_read_as_their_type(pair, value):
    changed = with_settings(Kinds(), [pair])
    key = pair.split("=")[0]
    assert getattr(changed, key) == value
    assert type(getattr(changed, key)) is type(value)
    # What a run writes down gives the same settings back.
    assert with_settings(Kinds(), json.loads(json.dumps(settings(changed)))) == changed


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        ("whole=1.5", "whole got '1.5'; expected a whole number, for example whole=10"),
        ("real=fast", "real got 'fast'; expected a number, for example real=0.01"),
        ("flag=maybe", "flag got 'maybe'; expected true or false, for example flag=true"),
        ("choice=z", "choice got 'z'; expected one of x, y"),
        ("many=1,b", "many got 'b'; expected a whole number"),
        ("hole=1", "There is no setting 'hole'. Did you mean 'whole'\\? Settings: whole, real"),
        ("zzz=1", "There is no setting 'zzz'. Settings: whole"),
        ("whole", "written key=value, for example lr=0.01; got 'whole'"),
    ],
)
def test_settings_that_cannot_be_read(pair, sentence):
    with pytest.raises(training.SettingError, match=sentence):
        with_settings(Kinds(), [pair])
