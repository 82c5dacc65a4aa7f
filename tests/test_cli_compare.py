"""compare-tutors from the command line: tables, JSON, page, and what is said of mistakes."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdcli.cli import main
from kdcli.voc.devkit import Devkit
from kdcli.voc.scenes.dataset import make_sample

LIST = "Segmentation/val"


def run(*arguments: object, fails: bool = False) -> str:
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    assert (done.exit_code != 0) == fails, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return str(done.output)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a drawn devkit and three stores of its five validation scenes."""
    folder = tmp_path_factory.mktemp("compared")
    make_sample(folder / "voc", 15, seed=7_500_002)
    stores = {
        "large": (),
        "small": ("--min-size", "72"),
        "boxes": ("--segmentation-tutor", "none"),
    }
    for name, options in stores.items():
        run(
            *("generate-tutors", "--voc", folder / "voc", "--list", LIST),
            *("--detection-tutor", "sample", "--segmentation-tutor", "sample"),
            *("--out", folder / f"{name}.zarr", *options),
        )
    return folder


class Page(HTMLParser):
    """The texts of a page's cells, those marked as best, and where its pictures come from."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.best: list[str] = []
        self.sources: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._inside = f"{tag} {given.get('class') or ''}" if tag in ("td", "th") else ""
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self._inside and data.strip():
            self.cells.append(data.strip())
            if "best" in self._inside:
                self.best.append(data.strip())


def test_tables_json_and_page_say_the_same(tmp_path: Path, made: Path) -> None:
    stores = [made / f"{name}.zarr" for name in ("small", "large", "boxes")]
    out, html = tmp_path / "c.json", tmp_path / "pages" / "c.html"
    printed = run(
        *("compare-tutors", *stores, "--voc", made / "voc"),
        *("--out", out, "--html", html, "--images", "3"),
    )
    text = out.read_text()
    assert "NaN" not in text
    found = json.loads(text)
    assert list(found["stores"]) == ["small", "large", "boxes"]
    for name in found["stores"]:
        alone = tmp_path / f"{name}.json"
        run("evaluate-tutors", made / f"{name}.zarr", "--voc", made / "voc", "--out", alone)
        expected = json.loads(alone.read_text())
        assert found["stores"][name]["detection"] == expected["detection"]
        assert found["stores"][name]["segmentation"] == expected["segmentation"]
    small, large, boxes = (found["stores"][name] for name in found["stores"])
    row = re.search(r"Boxes +mAP % +(\S+) +(\S+) +(\S+)\n", printed)
    assert row is not None
    best = max(small["map"], large["map"])
    texts = [f"{100 * s['map']:.1f}{'*' * (s['map'] == best)}" for s in (small, large, boxes)]
    assert list(row.groups()) == texts
    assert boxes["miou"] is boxes["pixels"] is None
    assert sum(large["missed"].values()) == round(
        (1 - large["recall"]) * sum(found["objects"].values())
    )
    assert found["agreement"][2]["stores"] == ["large", "boxes"]
    assert found["agreement"][2]["same_class"] is None
    page = Page(html.read_text())
    assert all(source.startswith("data:image/") for source in page.sources)
    # Of three images: the truth and three stores; and the curves.
    assert len(page.sources) == 3 * 4 + 1
    assert f"{100 * best:.1f}" in page.best
    assert "small" in page.cells
    missing = [line for line in printed.splitlines() if line.startswith("Cost")]
    assert missing[0].split()[-3:] == ["-", "-", "-"]


def test_one_store_alone(tmp_path: Path, made: Path) -> None:
    html = tmp_path / "one.html"
    printed = run("compare-tutors", made / "small.zarr", "--voc", made / "voc", "--html", html)
    assert "*" not in printed
    assert "Agreement" not in printed
    text = html.read_text()
    assert "differ most from the ground truth" in text
    assert not Page(text).best


def test_tutors_are_timed_where_they_can_be_loaded(made: Path, tmp_path: Path) -> None:
    """Also from a file, by the path that the run recorded; not once it has gone."""
    from kdcli.tutor_gen.detectron2.kind import SAMPLE_FILES as SAMPLE

    for name in ("detection.yaml", "detection.yaml.toml", "detection.pth"):
        shutil.copy(SAMPLE / name, tmp_path / name)
    own, out = tmp_path / "own.zarr", tmp_path / "c.json"
    shutil.move(tmp_path / "detection.yaml", tmp_path / "mine.yaml")
    shutil.move(tmp_path / "detection.yaml.toml", tmp_path / "mine.yaml.toml")
    run(
        *("generate-tutors", "--voc", made / "voc", "--list", LIST, "--out", own),
        *("--detection-tutor", tmp_path / "mine.yaml", "--segmentation-tutor", "none"),
        *("--detection-weights", tmp_path / "detection.pth"),
    )
    options = ("--voc", made / "voc", "--time", "2", "--device", "cpu", "--out", out)
    run("compare-tutors", made / "large.zarr", own, *options)
    both = json.loads(out.read_text())["stores"]
    assert both["large"]["seconds_per_image"] > 0
    assert both["own"]["seconds_per_image"] > 0
    (tmp_path / "mine.yaml").unlink()
    printed = run("compare-tutors", made / "large.zarr", own, *options)
    assert "the tutors of own were not timed, they cannot be loaded again" in printed
    both = json.loads(out.read_text())["stores"]
    assert both["large"]["seconds_per_image"] > 0
    assert both["own"]["seconds_per_image"] is None


def test_without_ground_truth_the_agreement_is_left(tmp_path: Path, made: Path) -> None:
    bare, html = tmp_path / "voc", tmp_path / "c.html"
    shutil.copytree(made / "voc", bare)
    for folder in ("Annotations", "SegmentationClass"):
        shutil.rmtree(bare / folder)
    stores = (made / "small.zarr", made / "large.zarr")
    out = tmp_path / "c.json"
    printed = run("compare-tutors", *stores, "--voc", bare, "--html", html, "--out", out)
    assert "Agreement" in printed
    assert "Each class" not in printed
    found = json.loads(out.read_text())
    assert found["stores"]["small"]["map"] is None
    assert 0 < found["agreement"][0]["same_class"] < 1
    assert "photograph" in html.read_text()


def test_a_users_mistakes_are_one_message(made: Path) -> None:
    voc = made / "voc"
    command = ("compare-tutors", made / "large.zarr", made / "small.zarr", "--voc", voc)
    printed = run(*command, "--list", "Segmentation/train", fails=True)
    count = len(Devkit.open(voc).image_ids("Segmentation/train"))
    for name in ("large", "small"):
        assert f"{made / name}.zarr lacks {count}, the first is" in printed
    assert "or name a list that all of the stores hold" in printed
    printed = run("compare-tutors", made / "none.zarr", "--voc", voc, fails=True)
    assert f"{made / 'none.zarr'}: no such folder" in printed
    twice = ("compare-tutors", made / "large.zarr", made / "large.zarr", "--voc", voc)
    assert "is named twice: name each store once." in run(*twice, fails=True)
    (made / "file").write_text("")
    printed = run(*command, "--html", made / "file" / "c.html", fails=True)
    assert "cannot be written" in printed
