"""Settings as text: what the command line passes, and what a run writes down and reads back."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class SettingError(ValueError):
    """A setting that does not exist, or a value that cannot be read."""


def settings(experiment: Any) -> dict[str, Any]:
    """The settings of an experiment by name, in order: its dataclass fields.

    >>> import spikeloom as sl
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Small:
    ...     lr: float = 0.1
    >>> sl.training.settings(Small())
    {'lr': 0.1}
    """
    return {field.name: getattr(experiment, field.name) for field in fields(experiment)}


def with_settings(experiment: T, values: Mapping[str, Any] | Iterable[str]) -> T:
    """A copy of an experiment with other settings.

    Arguments:
        experiment: an instance of a dataclass.
        values: texts ``"key=value"``, each value read as its field's type; or a mapping from keys to texts or values.

    Returns:
        The copy; the experiment itself is left as it is.

    Raises:
        SettingError: (a ValueError) if there is no such key, naming the nearest one, or a value cannot be read.

    >>> import spikeloom as sl
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Small:
    ...     lr: float = 0.1
    >>> sl.training.with_settings(Small(), ["lr=0.5"])
    Small(lr=0.5)
    >>> sl.training.with_settings(Small(), ["lrr=0.5"])
    Traceback (most recent call last):
    spikeloom.training.settings.SettingError: There is no setting 'lrr'. Did you mean 'lr'? Settings: lr.
    """
    assert is_dataclass(experiment)
    assert not isinstance(experiment, type)
    pairs = dict(values) if isinstance(values, Mapping) else dict(map(_split, values))
    kinds = get_type_hints(type(experiment))
    names = [field.name for field in fields(experiment)]
    for key in pairs:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise SettingError(f"There is no setting '{key}'.{hint} Settings: {', '.join(names)}.")
    return replace(experiment, **{key: _read(key, value, kinds[key]) for key, value in pairs.items()})


def _split(pair: str) -> tuple[str, str]:
    key, sign, value = pair.partition("=")
    if not sign or not key:
        raise SettingError(f"A setting is written key=value, for example lr=0.01; got '{pair}'.")
    return key.strip(), value.strip()


def _read(key: str, value: Any, kind: Any) -> Any:
    """A value of type `kind` from its text, or the value itself if it already is one."""
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if value not in choices:
            raise SettingError(f"{key} got '{value}'; expected one of {', '.join(map(str, choices))}.")
        return value
    if get_origin(kind) in (Union, types.UnionType):
        inner = [part for part in get_args(kind) if part is not type(None)]
        return None if value in (None, "none", "None") else _read(key, value, inner[0])
    if get_origin(kind) is tuple:
        parts = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        return tuple(_read(key, part, get_args(kind)[0]) for part in parts)
    error = SettingError(f"{key} got '{value}'; expected {_KINDS[kind]}, for example {key}={_EXAMPLES[kind]}.")
    if kind is bool:
        if str(value).lower() not in _WORDS:
            raise error
        return _WORDS[str(value).lower()]
    if isinstance(value, bool):
        raise error
    try:
        return kind(value)
    except (ValueError, TypeError):
        raise error from None


_EXAMPLES = {int: "10", float: "0.01", bool: "true", str: "name"}
