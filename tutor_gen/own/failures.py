"""What went wrong in a user's code: in which line of it, and how."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from kdcli.common.errors import KdcliError, TutorError


@contextlib.contextmanager
def explained(spec: str, file: Path) -> Iterator[None]:
    """Turn whatever a user's code raises into one message; our own errors pass as they are.

    Args:
        spec: names the tutor in the message.
        file: of the user's code: the last line of it that was at work is named, or else the last
            one of all.

    Raises:
        TutorError: with file, line and error; the traceback is its ``__cause__``.
    """
    try:
        yield
    # A want of a GPU's memory is explained elsewhere.
    except (KdcliError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        raise TutorError(f"{spec} failed {_place(error, file)}{_what(error)}") from error


def _place(error: Exception, file: Path) -> str:
    if isinstance(error, SyntaxError):
        return f"at {error.filename}, line {error.lineno}: "
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is ours
    own = [frame for frame in frames if Path(frame.filename) == file]
    frame = (own or frames)[-1]
    return f"at {frame.filename}, line {frame.lineno} ({frame.line}): "


def _what(error: Exception) -> str:
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
