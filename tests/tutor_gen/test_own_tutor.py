"""A user's own tutor, named by the function that makes it: loaded, checked, found again."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner, Result

from kdcli.cache.reader import TutorCache
from kdcli.cli import main
from kdcli.common.errors import TutorError
from kdcli.common.files import sha256_file
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.generate import generate
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.registry import load_tutor, load_tutors
from kdcli.tutor_gen.reload import load_again
from kdcli.tutor_gen.tutors.kind import Named
from kdcli.tutor_gen.tutors.tutor import Instances, PreparingTutor
from kdcli.voc.devkit import Devkit
from kdcli.voc.scenes.dataset import Scene

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutors.md"
WHOLE = """
import numpy as np
from kdcli import Instances

class Whole:
    '''Calls the whole image a cat.'''
    def __init__(self, score=0.5):
        self.score = score
        self.description = {"score": score, "class_names": ["cat"]}
    def predict(self, images):
        return [self.one(*image.shape[:2]) for image in images]
    def one(self, height, width):
        return Instances(
            boxes=np.array([[0, 0, width, height]], np.float32),
            labels=np.array([8]),
            scores=np.array([self.score], np.float32),
            masks=np.ones((1, height, width), bool),
        )
"""


def write(folder: Path, code: str, name: str = "mine.py") -> str:
    path = folder / name
    path.write_text(WHOLE + code)
    return str(path)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def labelled(devkit: Devkit, out: Path, spec: str, **settings: Any) -> TutorCache:
    ids = devkit.image_ids("Main/train")[:2]
    config = generation_config(
        None, (), **{"detection__tutor": "none", "segmentation__tutor": spec, **settings}
    )
    generate(devkit, ids, load_tutors(config), out)
    return TutorCache.open(out)


def test_a_function_without_arguments_makes_it(tmp_path: Path, scenes: list[Scene]) -> None:
    path = write(tmp_path, "def make(): return Whole()\n")
    tutor = load_tutor(f"{path}:make", "segmentation")
    assert tutor is not None
    assert not isinstance(tutor, PreparingTutor)
    (found,) = tutor.predict([scenes[0].image])
    assert found.labels.tolist() == [8]
    assert tutor.description == {
        "kind": "python",
        "name": "mine.py:make",
        "score": 0.5,
        "class_names": ["cat"],
        "made_by": {"file": "mine.py", "function": "make", "sha256": sha256_file(Path(path))},
    }
    by_class = load_tutor(f"{path}:Whole", "segmentation")
    assert by_class is not None
    assert by_class.description["name"] == "mine.py:Whole"


def test_a_function_that_takes_settings_gets_them_and_they_are_recorded(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "def make(settings):\n"
        "    assert settings.form.masks == 'soft' and settings.device == 'cpu'\n"
        "    return Whole(settings.score_threshold)\n",
    )
    config = generation_config(
        segmentation__score_threshold=0.25,
        label_vectors__masks="soft",
        inference__min_size=320,
        inference__amp="bf16",
        runtime__device="cpu",
    )
    tutor = load_tutor(f"{path}:make", "segmentation", "", config)
    assert tutor is not None
    assert tutor.description["score"] == 0.25
    assert tutor.description["made_by"]["settings"] == {
        "score_threshold": 0.25,
        "detections_per_image": 100,
        "min_size": 320,
        "masks": True,
        "keep_masks": False,
        "amp": "bfloat16",
    }


def test_a_module_is_named_as_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_tutors").mkdir()
    (tmp_path / "my_tutors" / "__init__.py").touch()
    path = write(tmp_path / "my_tutors", "make = lambda: Whole()\n", "whole.py")
    monkeypatch.syspath_prepend(tmp_path)
    tutor = load_tutor("my_tutors.whole:make", "detection")
    assert tutor is not None
    digest = sha256_file(Path(path))
    made_by = {"module": "my_tutors.whole", "function": "make", "sha256": digest}
    assert tutor.description["made_by"] == made_by
    assert tutor.description["name"] == "my_tutors.whole:make"


def test_a_file_finds_its_neighbours_and_a_store_the_file(tmp_path: Path, devkit: Devkit) -> None:
    (tmp_path / "neighbour_of_mine.py").write_text("SCORE = 0.75\n")
    code = (
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Settings:\n    score: float\n"
        "def make():\n    from neighbour_of_mine import SCORE\n    return Whole(SCORE)\n"
    )
    spec = write(tmp_path, code) + ":make"
    cache = labelled(devkit, tmp_path / "c.zarr", spec)
    image_id = cache.image_ids[0]
    assert cache[image_id].label_vectors()[0, 0, 8] == 0.75
    with pytest.raises(TutorError, match=r"the file mine\.py:make, whose folder .*--segmentation"):
        load_again(cache)  # a store names no code to run
    again = load_again(cache, segmentation=Named(spec))
    assert again.label(devkit.read_image(image_id), image_id)[0].equals(cache[image_id])
    write(tmp_path, code + "# changed\n")
    with pytest.raises(TutorError, match=r"other tutors than .*\n.*made_by\.sha256: "):
        load_again(cache, segmentation=Named(spec))


def test_a_store_brings_back_the_settings_that_it_took(tmp_path: Path, devkit: Devkit) -> None:
    code = "def make(settings): return Whole(settings.detections_per_image / 1000)\n"
    spec = write(tmp_path, code) + ":make"
    settings = {"inference__detections_per_image": 300, "inference__amp": "fp16"}
    cache = labelled(devkit, tmp_path / "c.zarr", spec, **settings)
    again = load_again(cache, segmentation=Named(spec))
    assert again.segmentation is not None
    assert again.segmentation.description["score"] == 0.3
    assert again.settings == cache.settings


def test_one_function_in_both_roles_is_called_once(tmp_path: Path) -> None:
    code = "CALLS = []\ndef make():\n    CALLS.append(1)\n    return Whole()\n"
    spec = write(tmp_path, code) + ":make"
    config = generation_config(detection__tutor=spec, segmentation__tutor=spec)
    pair = load_tutors(config)
    assert pair.detection is pair.segmentation
    assert sys.modules["kdcli_own_mine"].CALLS == [1]


def test_two_functions_of_one_file_share_what_it_made(tmp_path: Path, devkit: Devkit) -> None:
    """Its classes, too: images that both want prepared alike are prepared once, in a worker."""
    code = """
from dataclasses import dataclass
from kdcli.tutor_gen.tutors.preparation import Preparation

@dataclass(frozen=True)
class Half(Preparation):
    pass

class Small(Whole):
    preparation = Half(short_side=32)
    def predict_prepared(self, prepared):
        return [self.one(each.height, each.width) for each in prepared]

def boxes():
    return Small(0.5)

def masks():
    return Small(0.25)
"""
    file = write(tmp_path, code)
    config = generation_config(
        detection__tutor=f"{file}:boxes", segmentation__tutor=f"{file}:masks", runtime__workers=1
    )
    out = tmp_path / "c.zarr"
    ids = devkit.image_ids("Main/train")[:2]
    generate(devkit, ids, load_tutors(config), out)
    cache = TutorCache.open(out)
    assert cache.image_ids == ids
    assert cache[ids[0]].scores.tolist() == [0.5]
    assert cache[ids[0]].label_vectors()[0, 0, 8] == 0.25


def test_a_description_like_torchvisions_is_still_ones_own(tmp_path: Path, devkit: Devkit) -> None:
    code = (
        'def make():\n    whole = Whole()\n    whole.description["kind"] = "torchvision"\n'
        '    whole.description["name"] = "fcos_resnet50_fpn"\n    return whole\n'
    )
    cache = labelled(devkit, tmp_path / "c.zarr", write(tmp_path, code) + ":make")
    with pytest.raises(TutorError, match=r"the file mine\.py:make, whose folder"):
        load_again(cache)


def test_one_that_prepares_its_images_still_does(tmp_path: Path, scenes: list[Scene]) -> None:
    code = (
        "from kdcli.tutor_gen.tutors.preparation import Preparation\n"
        "class Small(Whole):\n"
        "    preparation = Preparation(short_side=32)\n"
        "    def predict_prepared(self, prepared):\n"
        "        assert all(min(p.pixels.shape[:2]) == 32 for p in prepared)\n"
        "        return [self.one(p.height, p.width) for p in prepared]\n"
    )
    tutor = load_tutor(write(tmp_path, code) + ":Small", "segmentation")
    assert isinstance(tutor, PreparingTutor)
    pair = TutorPair(None, tutor)
    output, _ = pair.label(scenes[0].image, "one")
    assert output.palette[-1, 8] == 0.5


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("", "make", r"mine\.py has no function 'make' \(it has Whole\)"),
        ("make = 3", "make", r"mine\.py has no function 'make'"),
        ("def make(weights, settings): ...", "make", r"wants weights; it is called without arg"),
        ("def make(): return 3", "make", r"made a int, which has no description; a tutor has a d"),
        ("class T:\n    description = {}", "T", r"made a T, which has no predict"),
        ("class T(Whole):\n    predict = 3", "T", r"made a T, whose predict is no method"),
        (
            "def make():\n    t = Whole()\n    t.description = 'mine'\n    return t",
            "make",
            r"made a Whole, whose description is a str, no dict",
        ),
        (
            "def make():\n    t = Whole()\n    t.description = {'a': np.ones(2)}\n    return t",
            "make",
            r"whose description a store cannot keep \(Object of type ndarray is not JSON",
        ),
        (
            "def make():\n    t = Whole(float('nan'))\n    return t",
            "make",
            r"whose description a store cannot keep \(Out of range float",
        ),
        ("import no_such_library", "make", r"mine\.py, line 19 \(import no_such_library\): Module"),
        ("def make(:", "make", r"failed at .*mine\.py, line 19: SyntaxError: "),
        (
            "def helper():\n    return {}['key']\ndef make():\n    return helper()",
            "make",
            r"mine\.py, line 20 \(return \{\}\['key'\]\): KeyError: 'key'",
        ),
        (
            "def make():\n    return json.loads('{')\nimport json",
            "make",
            r"mine\.py, line 20 \(return json\.loads\('\{'\)\): JSONDecodeError: Expecting",
        ),
    ],
)
def test_what_cannot_be_made_is_said_with_its_place(
    tmp_path: Path, code: str, name: str, message: str
) -> None:
    spec = f"{write(tmp_path, code)}:{name}"
    with pytest.raises(TutorError, match=message) as error:
        load_tutor(spec, "detection")
    assert str(error.value).startswith(spec)
    assert "\n" not in str(error.value)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TutorError, match=r"absent\.py:make: there is no file .*absent\.py"):
        load_tutor(f"{tmp_path}/absent.py:make", "detection")
    for module in ("no_such_package", "no_such_package.module", "json.no_such_module"):
        with pytest.raises(TutorError, match=rf"there is no module {module} .* name the file"):
            load_tutor(f"{module}:make", "detection")
    spec = write(tmp_path, "def make(): return Whole()") + ":make"
    with pytest.raises(TutorError, match=r"loads its own weights; drop some\.pth"):
        load_tutor(spec, "detection", "some.pth")
    for option, changed in (("--min-size", {"min_size": 64}), ("--amp", {"amp": "fp16"})):
        config = generation_config(None, {"inference": changed})
        with pytest.raises(TutorError, match=f"takes no settings: drop {option}, or give it a par"):
            load_tutor(spec, "detection", "", config)
    with pytest.raises(TutorError, match=r"a tutor of your own in it is .*mine\.py:FUNCTION"):
        load_tutor(spec.removesuffix(":make"), "detection")


RETURNS = "class T(Whole):\n    def predict(self, images):\n        {}\n"
ONE = "found = self.one(*images[0].shape[:2])"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "given 1 images and returned a NoneType; expected a list of one kdcli.Ins"),
        ("return []", "given 1 images and returned 0 answers"),
        ("return [{'boxes': []}]", "returned a dict among them"),
        ("return self.one(9, 9)", "returned a Instances; expected a list"),
        ("images[0].nothing", r"mine\.py, line 21 \(images\[0\]\.nothing\): AttributeError: "),
        (f"{ONE}; object.__setattr__(found, 'boxes', [[0, 0, 1, 1]]); return [found]",
         "image one: .* expected boxes to be a NumPy array of numbers, got list"),
        (f"{ONE}; object.__setattr__(found, 'labels', np.array(['cat'])); return [found]",
         "image one: .* expected labels to be a NumPy array of whole numbers, got <U3"),
        (f"{ONE}; object.__setattr__(found, 'scores', np.array([np.nan])); return [found]",
         "image one: .* it holds NaN"),
        (f"{ONE}; object.__setattr__(found, 'masks', None); return [found]",
         "image one: the segmentation tutor gives boxes without masks"),
    ],
)  # fmt: skip
def test_what_it_returns_is_checked(
    tmp_path: Path, scenes: list[Scene], body: str, message: str
) -> None:
    tutor = load_tutor(write(tmp_path, RETURNS.format(body)) + ":T", "segmentation")
    pair = TutorPair(None, tutor)
    with pytest.raises(TutorError, match=message):
        pair.label(scenes[0].image, "one")


def test_its_error_in_the_middle_of_a_run_is_one_message(tmp_path: Path, devkit: Devkit) -> None:
    spec = write(tmp_path, RETURNS.format("1 / 0")) + ":T"
    arguments = ("--list", "Main/train", "--detection-tutor", "none", "--segmentation-tutor", spec)
    result = run("generate-tutors", "--voc", devkit.root, *arguments, "--out", tmp_path / "c.zarr")
    assert result.exit_code == 1
    where = rf"^Error: {spec} failed at {tmp_path}/mine\.py, line 21 \(1 / 0\): ZeroDivisionError: "
    assert re.search(where, result.output, re.MULTILINE)
    assert "Traceback" not in result.output


def test_the_page_shows_a_file_that_works(
    tmp_path: Path, devkit: Devkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("bright.py").write_text(code)
    run_it = [
        "--voc", devkit.root, "--list", "Main/train", "--detection-tutor", "none",
        "--segmentation-tutor", "bright.py:make_tutor", "--out",
    ]  # fmt: skip
    result = run("generate-tutors", *run_it, "hard.zarr")
    assert result.exit_code == 0, result.output
    assert "the segmentation tutor never labels: aeroplane, bicycle" in result.output
    result = run("generate-tutors", *run_it, "kept.zarr", "--keep-masks")
    assert result.exit_code == 1
    assert "without --keep-masks" in result.output
    result = run("generate-tutors", *run_it, "soft.zarr", "--label-masks", "soft")
    assert result.exit_code == 0, result.output
    for name in ("hard.zarr", "soft.zarr"):
        cache = TutorCache.open(Path(name))
        vectors = [cache[image_id].label_vectors() for image_id in cache.image_ids]
        assert any(each[..., 8].any() for each in vectors)
        assert not any(np.delete(each, 8, axis=2).any() for each in vectors)
        named = ("--segmentation-tutor", "bright.py:make_tutor")
        compare = ("--voc", devkit.root, "--verify-against-tutor", "3", "--device", "cpu")
        result = run("inspect-cache", name, *compare, *named)
        assert result.exit_code == 0, result.output
        assert "bright (python, sha256 " in result.output


def test_a_tutor_of_python_needs_no_name(tmp_path: Path, devkit: Devkit) -> None:
    class Nameless:
        description: ClassVar = {"threshold": 3}

        def predict(self, images: Any) -> list[Instances]:
            return [Instances.none() for _ in images]

    ids = devkit.image_ids("Main/train")[:1]
    generate(devkit, ids, TutorPair(Nameless(), None), tmp_path / "c.zarr")
    result = run("inspect-cache", tmp_path / "c.zarr", "--voc", devkit.root, "--gallery",
                 tmp_path / "page.html")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "never labelled" not in result.output
    summary = json.loads(run("inspect-cache", tmp_path / "c.zarr", "--json").stdout)
    assert summary["provenance"]["settings"]["detection"] == {"threshold": 3}


HALVES = """
from kdcli import SemanticOutput

class Halves:
    '''Two cells an image: the left one a cat, the right one background.'''
    description = {"semantic": "halves", "class_names": ["cat"]}
    def predict(self, images):
        cells = np.zeros((21, 1, 2), np.float32)
        cells[8, 0, 0] = cells[0, 0, 1] = 1
        return [SemanticOutput(cells) for _ in images]
"""


def test_it_may_say_a_class_of_every_cell(tmp_path: Path, devkit: Devkit) -> None:
    path = write(tmp_path, HALVES)
    cache = labelled(devkit, tmp_path / "c.zarr", f"{path}:Halves")
    for image_id in cache.image_ids:
        assert cache.palette(image_id)[cache.index_map(image_id)].argmax(axis=2).tolist() == [
            [8, 0]
        ]
    again = load_again(cache, segmentation=Named(f"{path}:Halves"))
    assert again.settings == cache.settings
    with pytest.raises(TutorError, match="Halves gives a class for each pixel, no boxes: name it"):
        labelled(devkit, tmp_path / "d.zarr", f"{path}:Halves", detection__tutor=f"{path}:Halves")
