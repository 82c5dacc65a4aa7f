"""Making a user's tutor: importing a file or a module, calling the function that it names."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from kdcli.common.errors import TutorError
from kdcli.common.files import sha256_file
from kdcli.tutor_gen.own.failures import explained
from kdcli.tutor_gen.own.tutor import OwnPreparingTutor, OwnTutor
from kdcli.tutor_gen.tutors.settings import ModelSettings
from kdcli.tutor_gen.tutors.tutor import PreparingTutor, Tutor

_IMPORTED: dict[tuple[Path, str], ModuleType] = {}
"""By file and its digest: two functions of one file share what it made when it was run."""


def from_function(spec: str, weights: str, settings: ModelSettings) -> Tutor:
    """Make the tutor that a function of the user's makes.

    The function is called without arguments, or with ``settings``, a `ModelSettings`, if it has a
    parameter of that name. What it returns is a `tutor_gen.tutors.tutor.Tutor`.

    Args:
        spec: ``path/to/file.py:function`` or ``package.module:function``.
        weights: has to be "": a tutor of one's own knows where its weights are.
        settings: how the tutor is to be run.

    Raises:
        TutorError: there is no such file, module or function; its code fails (where, and how, is
            said); or what it returns is no tutor.
    """
    where, _, name = spec.rpartition(":")
    if weights:
        raise TutorError(f"{spec} loads its own weights; drop {weights}")
    module = _import_file(Path(where), spec) if where.endswith(".py") else _import(where, spec)
    file = Path(str(module.__file__))
    make = _function(module, name, spec)
    given = _arguments(make, spec, settings)
    with explained(spec, file):
        made = make(**given)
        own = _described(made, spec)
        kind = OwnPreparingTutor if isinstance(made, PreparingTutor) else OwnTutor
    origin = _origin(file, where, name, settings if given else None)
    named = {"kind": "python", "name": f"{Path(where).name}:{name}"}
    return kind(made, spec, file, {**named, **own, "made_by": origin})


def _import_file(path: Path, spec: str) -> ModuleType:
    if not path.is_file():
        raise TutorError(f"{spec}: there is no file {path}")
    # Where Python would find them if the file were run: its neighbours, behind everything else.
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    path = path.resolve()
    key = path, sha256_file(path)
    if key in _IMPORTED:
        return _IMPORTED[key]
    found = importlib.util.spec_from_file_location(f"kdcli_own_{path.stem}", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[module.__name__] = module  # as dataclasses and pickle want it
    with explained(spec, path):
        found.loader.exec_module(module)
    _IMPORTED[key] = module
    return module


def _import(name: str, spec: str) -> ModuleType:
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise TutorError(
            f"{spec}: there is no module {name} in this environment; install it, or name the file: "
            "path/to/file.py:FUNCTION"
        )
    with explained(spec, Path(str(found.origin))):
        return importlib.import_module(name)


def _function(module: ModuleType, name: str, spec: str) -> Callable[..., Any]:
    make = getattr(module, name, None)
    if not callable(make):
        own = [key for key, value in vars(module).items() if _is_own(value, module)]
        has = f"it has {', '.join(own)}" if own else "it has none"
        raise TutorError(f"{spec}: {module.__file__} has no function '{name}' ({has})")
    return cast("Callable[..., Any]", make)


def _is_own(value: object, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def _arguments(make: Callable[..., Any], spec: str, settings: ModelSettings) -> dict[str, Any]:
    """Return ``settings``, if the function takes it."""
    parameters = inspect.signature(make).parameters
    wanted = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and name != "settings"
    ]
    if wanted:
        raise TutorError(
            f"{spec} wants {', '.join(wanted)}; it is called without arguments, or with 'settings' "
            "alone: give the others a default"
        )
    if "settings" in parameters:
        return {"settings": settings}
    for option, value in {"--min-size": settings.min_size, "--amp": settings.amp}.items():
        if value is not None:
            raise TutorError(
                f"{spec} takes no settings: drop {option}, or give it a parameter 'settings'"
            )
    return {}


def _described(made: Any, spec: str) -> dict[str, Any]:
    """A tutor's own description; TutorError if it is none, as far as that is seen by now."""
    what = f"{spec} made a {type(made).__name__}"
    for name in ("description", "predict"):
        if not hasattr(made, name):
            raise TutorError(
                f"{what}, which has no {name}; a tutor has a description (a dictionary) and a "
                "method predict(images)"
            )
    if not callable(made.predict):
        raise TutorError(f"{what}, whose predict is no method")
    description = made.description
    if not isinstance(description, Mapping):
        raise TutorError(f"{what}, whose description is a {type(description).__name__}, no dict")
    try:
        kept: dict[str, Any] = json.loads(json.dumps(dict(description), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TutorError(
            f"{what}, whose description a store cannot keep ({error}): it may hold numbers, texts, "
            "lists, and dictionaries by text"
        ) from None
    return kept


def _origin(file: Path, where: str, name: str, settings: ModelSettings | None) -> dict[str, Any]:
    """What made a tutor, for its description: file or module, its digest, the settings it took."""
    place = {"file": file.name} if where.endswith(".py") else {"module": where}
    origin = {**place, "function": name, "sha256": sha256_file(file)}
    if settings is None:
        return origin
    took = asdict(settings)
    del took["device"]  # which is no setting
    del took["form"], took["labels"]  # which are the whole store's
    return {**origin, "settings": took}
