"""``python -m kdcli`` is the program ``kdcli``."""

from kdcli.cli import main

main(prog_name="kdcli")
