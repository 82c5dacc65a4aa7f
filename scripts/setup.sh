#!/usr/bin/env bash
# Builds .venv with everything kdcli needs, Detectron2 included. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

fail() { echo "setup: $*" >&2; exit 1; }

command -v "$python" >/dev/null || fail "no '$python' found; install Python 3.11 or newer, or name one: make setup PYTHON=python3.11"
"$python" - <<'PY' || fail "kdcli needs Python 3.11 or newer; '$python' is $("$python" -V 2>&1). Name another: make setup PYTHON=python3.11"
import sys
sys.exit(sys.version_info < (3, 11))
PY
"$python" -c "import venv, ensurepip" 2>/dev/null || fail "'$python' cannot make virtual environments; on Debian: apt-get install python3-venv"

free_gb=$(df -Pk . | awk 'NR==2 {print int($4 / 1048576)}')
[ "$free_gb" -ge 8 ] || [ -x .venv/bin/kdcli ] || fail "PyTorch and its libraries take about 6 GB; only $free_gb GB are free here"

[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=".venv/bin/python -m pip --disable-pip-version-check"
$pip install --quiet 'setuptools>=77,<81' wheel
echo "setup: installing PyTorch and the other packages (about 2 minutes on a fast line)"
$pip install --quiet --editable '.[dev]'
.venv/bin/python scripts/install_detectron2.py
touch .venv/.ready
.venv/bin/kdcli env
