"""kdcli list-presets."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kdcli.commands.options import device_option, set_option

COLUMNS = (
    ("preset", 15),
    ("trunk", 19),
    ("input", 6),
    ("parameters", 11),
    ("trainable", 10),
    ("GFLOP", 7),
    ("trained/s (batch)", 18),
    ("inferred/s", 11),
)


@click.command()
@click.argument("sources", metavar="[NAME|FILE]...", nargs=-1)
@set_option("model.trunk=resnet18")
@device_option
@click.option("--no-timing", is_flag=True, help="Measure nothing: the table is there at once.")
def list_presets(
    sources: Sequence[str], overrides: Sequence[str], device: str, no_timing: bool
) -> None:
    """Show the presets of train-student, or configurations named: how large, how fast here.

    GFLOP: of one image's forward pass, a multiplication with its addition counted as two. Trained/s
    and inferred/s: images a second on this machine, the best of a few tries: training steps without
    the input pipeline, and the network alone on one image at a time.

    \b
    Examples:
      kdcli list-presets
      kdcli list-presets mobile --set model.trunk=shufflenet_v2_x1_0 --device cpu
    """
    import torch

    from kdcli.common.device import use_device
    from kdcli.student.config.toml import presets, run_config
    from kdcli.student.measure import size_of, speed_of

    where = use_device(device)
    configs = {source: run_config(source, overrides) for source in sources or presets()}
    if not no_timing:
        threads = f", threads: {torch.get_num_threads()}" if where.type == "cpu" else ""
        click.echo(f"On {where}{threads}")
    _print_row([name for name, _ in COLUMNS[: -2 if no_timing else None]])
    for source, config in configs.items():
        size = size_of(config.model)
        row = [
            source,
            config.model.trunk,
            f"{config.model.input_size}",
            f"{size.parameters / 1e6:.2f} M",
            f"{size.trainable / 1e6:.2f} M",
            f"{size.flop / 1e9:.2f}",
        ]
        if not no_timing:
            speed = speed_of(config, where)
            row += [f"{speed.trained:.1f} ({speed.batch})", f"{speed.inferred:.1f}"]
        _print_row(row)


def _print_row(cells: Sequence[str]) -> None:
    """Print a row at once, as a table as a whole would have to wait for its last."""
    widths = [width for _, width in COLUMNS]
    words = [
        cell.ljust(width) if index < 2 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=False))
    ]
    click.echo(" ".join(words).rstrip())
