"""Install Detectron2 into the environment of the Python that runs this script.

Detectron2 is not on PyPI. Two sources are tried, both pinned:

1. the official repository at one commit, compiled here (needs git and a C++ compiler);
2. the sdist ``pb1-detectron2==0.6`` from the package index, pinned by its SHA-256; its Python files
   equal those of the official tag v0.6. Only the Python part is installed, which is all that plain
   Faster and Mask R-CNN need (deformable convolutions and rotated boxes need source 1).

What was installed, and why, is written to ``detectron2-*.dist-info/KDCLI_SOURCE``. Running the
script again does nothing unless another ``--source`` is asked for. Standard library only.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

REPOSITORY = "https://github.com/facebookresearch/detectron2.git"
COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"
SDIST = "pb1-detectron2==0.6"
SDIST_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
SDIST_PIP = "23.2.1"  # pip 24 and later refuse this sdist's metadata
PROBE_SECONDS = 15
BUILD_SECONDS = 1800
MARKER = "KDCLI_SOURCE"


class InstallError(Exception):
    """A source cannot be used; the message says why."""


def main() -> int:
    """Install from the asked source, print one line, return the exit code."""
    parser = argparse.ArgumentParser(description="Install Detectron2 into this environment.")
    parser.add_argument(
        "--source",
        choices=("auto", "git", "sdist"),
        default="auto",
        help="auto (default): the official repository, and where that fails the sdist",
    )
    source: str = parser.parse_args().source
    site = Path(sysconfig.get_paths()["platlib"])
    present = installed(site)
    if present is not None and source in ("auto", present.split(":")[0]):
        print(f"Detectron2 is already installed ({present})")
        return 0
    try:
        _need("torch", "Detectron2 needs PyTorch first: run 'make setup', or pip install torch")
        print(f"Detectron2 installed ({install(source, site)})")
    except InstallError as error:
        print(f"install_detectron2: {error}", file=sys.stderr)
        return 1
    return 0


def install(source: str, site: Path) -> str:
    """Install from ``source`` and return the marker's line."""
    reason = "asked for with --source sdist"
    if source in ("auto", "git"):
        try:
            return _mark(site, _install_from_git())
        except InstallError as error:
            if source == "git":
                raise
            reason = str(error).splitlines()[0]
    with tempfile.TemporaryDirectory() as scratch:
        _install_python_files(_download_sdist(Path(scratch)), site)
    return _mark(site, f"sdist: {SDIST}, Python part only, because {reason}")


def installed(site: Path) -> str | None:
    """The marker's line, or what else is known of an installed Detectron2, or None."""
    for info in sorted(site.glob("detectron2-*.dist-info")):
        marker = info / MARKER
        if not (site / "detectron2" / "__init__.py").is_file():
            return None if marker.is_file() else f"other: {info.name}"
        return marker.read_text().strip() if marker.is_file() else f"other: {info.name}"
    return None


def _install_from_git() -> str:
    """Compile and install the pinned commit, or say what stands against it."""
    for tool in ("git", "c++"):
        if shutil.which(tool) is None:
            raise InstallError(f"'{tool}' is not installed, so the repository cannot be built")
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        probe = subprocess.run(
            ["git", "ls-remote", REPOSITORY, "HEAD"],
            env=environment,
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InstallError(f"{REPOSITORY} did not answer in {PROBE_SECONDS} s") from None
    if probe.returncode != 0:
        raise InstallError(f"{REPOSITORY} cannot be reached from here")
    command = ["install", "--no-deps", "--no-build-isolation", "--force-reinstall"]
    _pip([*command, f"git+{REPOSITORY}@{COMMIT}"], environment, BUILD_SECONDS)
    return f"git: commit {COMMIT[:12]} of the official repository, compiled here"


def _download_sdist(scratch: Path) -> Path:
    """Fetch the pinned sdist into ``scratch`` and return its path, digest checked."""
    environment = dict(os.environ)
    if _pip(["--version"], environment).split()[1] != SDIST_PIP:
        old_pip = scratch / "pip"
        _pip(["install", "--quiet", "--target", str(old_pip), f"pip=={SDIST_PIP}"], environment)
        environment["PYTHONPATH"] = str(old_pip)
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n")
    options = ["--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--require-hashes"]
    downloads = scratch / "download"
    _pip(["download", *options, "-r", str(requirements), "-d", str(downloads)], environment)
    (archive,) = downloads.glob("*.tar.gz")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SDIST_SHA256:
        raise InstallError(f"{archive.name}: expected SHA-256 {SDIST_SHA256}, got {digest}")
    return archive


def _install_python_files(archive: Path, site: Path) -> None:
    """Put the sdist's ``detectron2`` package into ``site``, with a dist-info that pip knows."""
    if installed(site) is not None:
        _pip(["uninstall", "--quiet", "--yes", "detectron2"], dict(os.environ))
    shutil.rmtree(site / "detectron2", ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=site, prefix=".detectron2-") as staging:
        files = _unpack(archive, Path(staging))
        (Path(staging) / "detectron2").replace(site / "detectron2")
    info = site / "detectron2-0.6.dist-info"
    info.mkdir(exist_ok=True)
    metadata = "Metadata-Version: 2.1\nName: detectron2\nVersion: 0.6\nLicense: Apache-2.0\n"
    (info / "METADATA").write_text(metadata)
    (info / "INSTALLER").write_text("kdcli\n")
    names = [*files, *(f"{info.name}/{name}" for name in ("METADATA", "INSTALLER"))]
    record = [_record_line(site, name) for name in names]
    record += [f"{info.name}/{name},," for name in (MARKER, "RECORD")]
    (info / "RECORD").write_text("\n".join(record) + "\n")


def _unpack(archive: Path, target: Path) -> list[str]:
    """Write the archive's ``<top>/detectron2/**`` files below ``target``; return their names."""
    names = []
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            parts = PurePosixPath(member.name).parts
            if not member.isfile() or parts[1:2] != ("detectron2",) or ".." in parts:
                continue
            content = tar.extractfile(member)
            if content is None:
                raise InstallError(f"{archive.name}: cannot read {member.name}")
            path = target.joinpath(*parts[1:])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())
            names.append("/".join(parts[1:]))
    if "detectron2/model_zoo/configs/Base-RCNN-FPN.yaml" not in names:
        raise InstallError(f"{archive.name} holds no model zoo configurations")
    return names


def _record_line(site: Path, name: str) -> str:
    """One line of a RECORD file (path, digest, size), as wheels have it."""
    content = (site / name).read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}"


def _mark(site: Path, line: str) -> str:
    """Write the marker beside the metadata and check that the package can be imported."""
    (info,) = sorted(site.glob("detectron2-*.dist-info"))[:1]
    (info / MARKER).write_text(line + "\n")
    _need("detectron2", f"the installed Detectron2 ({line}) cannot be imported")
    return line


def _need(module: str, message: str) -> None:
    """Raise unless a fresh interpreter, away from this folder, can import ``module``."""
    check = [sys.executable, "-c", f"import {module}"]
    result = subprocess.run(check, capture_output=True, text=True, cwd="/", check=False)
    if result.returncode != 0:
        raise InstallError(f"{message}\n{result.stderr.strip()}")


def _pip(arguments: list[str], environment: dict[str, str], seconds: int = 600) -> str:
    """Run this interpreter's pip; return what it printed, or raise with its last lines."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    try:
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise InstallError(f"'pip {arguments[0]}' did not end in {seconds} s") from None
    if result.returncode != 0:
        tail = "\n".join((result.stdout + result.stderr).strip().splitlines()[-8:])
        raise InstallError(f"'pip {' '.join(arguments)}' failed:\n{tail}")
    return result.stdout


if __name__ == "__main__":
    sys.exit(main())
