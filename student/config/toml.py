"""Read a ``RunConfig`` from TOML and settings.

A file may start from a preset (``preset = "tiny"`` at its top) and a model from a named
architecture (``preset = "blitznet300"`` in ``[model]``). Unknown keys are errors.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from kdcli.common.config import Changes, Table, apply, build, by_keyword, merge, nearest, read_toml
from kdcli.common.errors import ConfigError
from kdcli.student.config.schema import RunConfig
from kdcli.student.model.config import PRESETS as MODELS
from kdcli.student.model.config import ModelConfig


def presets() -> tuple[str, ...]:
    """Return the names of the run configurations that ship with the package."""
    folder = resources.files(__package__) / "presets"
    names = (item.name for item in folder.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def run_config(
    source: Path | str | None = None, changes: Changes = (), **settings: Any
) -> RunConfig:
    """Return the configuration of a TOML file or a preset, with settings changed.

    >>> run_config("tiny", optim__steps=100).optim.steps
    100

    Args:
        source: A file, or the name of a preset (see ``presets``); None for the defaults.
        changes: Such as ``{"optim.lr": 2e-4}`` or ``["optim.lr=2e-4"]``.
        settings: The same as keywords, ``__`` for the dot; they have the last word.

    Raises:
        ConfigError: No such file or preset, not TOML, an unknown key, or a value out of place.
    """
    asked = apply(by_keyword(settings), apply(changes, {}))
    model = asked.get("model")
    if isinstance(model, Mapping) and "num_classes" in model:
        raise ConfigError(
            "model.num_classes is no setting: it is the number of the data set's labels, VOC's 20 "
            "and the background unless its labels.toml says otherwise; leave it out"
        )
    table = merge({} if source is None else _read(source), asked)
    if table.get("preset"):
        base = _read_preset(str(table.pop("preset")))
        table = merge(base, table)
    where = f"the configuration {source}" if source is not None else "the configuration"
    return config_from_table(table, where)


def config_from_table(table: Mapping[str, Any], where: str) -> RunConfig:
    """Return the configuration that a parsed TOML table holds; ``where`` names it in errors."""
    table = dict(table)
    model = table.get("model", {})
    if isinstance(model, Mapping) and "preset" in model:
        table["model"] = _expand_model(dict(model), where)
    return build(RunConfig, table, where)


def _read(source: Path | str) -> Table:
    path = Path(source)
    if path.is_file():
        return read_toml(path)
    if str(source) in presets():
        return _read_preset(str(source))
    raise ConfigError(
        f"Found no configuration {source}: no such file, and the presets are "
        f"{', '.join(presets())}{nearest(str(source), presets())}"
    )


def _read_preset(name: str) -> Table:
    if name not in presets():
        raise ConfigError(
            f"Found no preset {name!r}; there are {', '.join(presets())}{nearest(name, presets())}"
        )
    text = (resources.files(__package__) / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _expand_model(model: Table, where: str) -> Table:
    name = str(model.pop("preset"))
    if name not in MODELS:
        raise ConfigError(
            f"Expected model.preset in {where} to be one of {', '.join(MODELS)}, got {name!r}"
            f"{nearest(name, tuple(MODELS))}"
        )
    chosen: ModelConfig = MODELS[name]
    return {field.name: getattr(chosen, field.name) for field in dataclasses.fields(chosen)} | model
