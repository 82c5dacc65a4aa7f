"""kdcli env."""

from __future__ import annotations

import os

import click


@click.command()
def env() -> None:
    """Print versions and machine: what a bug report needs.

    \b
    Example:
      kdcli env
    """
    from kdcli.common.versions import environment, memory_gib
    from kdcli.tutor_gen.detectron2.source import detectron2_source

    rows = environment()
    rows["detectron2"] += f" ({detectron2_source()})"
    rows |= {"CUDA": _cuda(), "cores": str(os.cpu_count()), "memory": f"{memory_gib():.1f} GiB"}
    width = max(map(len, rows))
    for name, value in rows.items():
        click.echo(f"{name:<{width}}  {value}")


def _cuda() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"no GPU (PyTorch built for CUDA {torch.version.cuda})"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{torch.version.cuda}, {', '.join(names)}"
