"""kdcli: the command line. Each command parses, calls one function of a stage, and prints.

Heavy imports happen inside the commands, so that ``kdcli --help`` answers at once.
"""

from __future__ import annotations

import errno
import os
import signal
import warnings
from typing import Any

# Threads of PyTorch's OpenMP wait by spinning, which on a machine that others use, too, slows
# training down by an order of magnitude. This has to be said before the library is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import click

from kdcli.commands.cache import (
    combine_caches,
    export_cache,
    import_cache,
    inspect_cache,
    merge_caches,
)
from kdcli.commands.check_data import check_data
from kdcli.commands.compare import compare_tutors
from kdcli.commands.environment import env
from kdcli.commands.export_labels import export_labels
from kdcli.commands.generate import generate_tutors
from kdcli.commands.import_coco import import_coco
from kdcli.commands.list_tutors import list_tutors
from kdcli.commands.presets import list_presets
from kdcli.commands.recipes import list_recipes, report, run_recipe
from kdcli.commands.sample import make_sample
from kdcli.commands.student import evaluate_student, export_onnx, predict, train_student
from kdcli.commands.tutors import evaluate_tutors
from kdcli.common.errors import KdcliError
from kdcli.common.stopping import Stopped, stopped_by_signals

COMMANDS = (
    make_sample,
    import_coco,
    check_data,
    list_tutors,
    generate_tutors,
    inspect_cache,
    export_cache,
    import_cache,
    merge_caches,
    combine_caches,
    export_labels,
    evaluate_tutors,
    compare_tutors,
    train_student,
    evaluate_student,
    predict,
    export_onnx,
    list_presets,
    list_recipes,
    run_recipe,
    report,
    env,
)


_shown_by_python = warnings.formatwarning


class _Commands(click.Group):
    """Commands in the order of use; a user's mistake is one line, a stop says how to go on."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with stopped_by_signals():
                return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            click.echo(str(stop) or "Interrupted. Run the same command again to go on.", err=True)
            ctx.exit(128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT))
        except Exception as error:
            message = str(error) if isinstance(error, KdcliError) else _of_the_system(error)
            if message is None:
                raise
            raise click.ClickException(message) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kdcli")
def main() -> None:
    """Offline knowledge distillation for multi-task vision.

    Tutors label a data set once (generate-tutors); a BlitzNet student learns from what they
    said, beside or instead of the ground truth (train-student).

    \b
    kdcli make-sample voc --images 240
    kdcli generate-tutors --voc voc --list Segmentation/trainval \\
        --detection-tutor sample --segmentation-tutor sample --out cache.zarr
    kdcli inspect-cache cache.zarr --voc voc --gallery gallery.html
    kdcli train-student --voc voc --cache cache.zarr --list Segmentation/train \\
        --config tiny --out runs/first
    kdcli evaluate-student runs/first --voc voc --list Segmentation/val
    """

    warnings.formatwarning = _as_a_line
    # Detectron2 0.6 and exports of it call this the old way, and a user can do nothing about it.
    warnings.filterwarnings("ignore", message="torch.meshgrid")
    # Pillow warns where voc.images refuses, with a message.
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")


for command in COMMANDS:
    main.add_command(command)


def _as_a_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning for users without the line of ours that gave it; others as Python shows them."""
    if category is UserWarning:
        return f"Warning: {message}\n"
    return _shown_by_python(message, category, filename, lineno, line)


def _of_the_system(error: Exception) -> str | None:
    """What nobody explained who knows the file: where our output or temporary files go."""
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return (
                f"{error.strerror}: for what this command prints, or for temporary files "
                "(TMPDIR names their folder). Free some and run the same command again."
            )
        if "temporary directory" in str(error):
            return f"{error.strerror}: let TMPDIR name a folder that may be written."
    return None


if __name__ == "__main__":
    main()
