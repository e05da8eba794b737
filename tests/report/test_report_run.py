"""A run's pictures: that they are drawn from its files, and that what they say is right."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from finished import CONFUSION, NAMES, figures, make_run
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from ccsi.errors import UserError
from ccsi.report import draw_impressions, draw_run
from ccsi.report.run import _mosaic


def texts(fig: Figure) -> list[str]:
    """Numbers and words inside a figure's axes."""
    return [text.get_text() for ax in fig.axes for text in ax.texts]


def titles(fig: Figure) -> list[str]:
    return [fig.get_suptitle() or ax.get_title() or ax.get_title(loc="left") for ax in fig.axes]


def test_all_pictures_of_a_run(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    folder = make_run(tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    written = draw_run(folder)
    names = ["accuracy_matrix", "accuracy_over_tasks", "confusion", "impressions"]
    assert sorted(path.stem for path in written) == names
    for path in written:
        assert path.parent == folder / "plots"
        with Image.open(path) as image:
            assert round(image.info["dpi"][0]) == 200
            assert len(np.unique(np.asarray(image))) > 10
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert {path: path.read_bytes() for path in before} == before

    assert texts(drawn["accuracy_matrix.png"]) == ["90.0", "25.0", "75.0"]
    assert titles(drawn["accuracy_matrix.png"]) == ["accuracy on each task's classes, test (%)"]
    shares = 100 * np.array(CONFUSION[-1]) / 8  # eight images of each class
    assert texts(drawn["confusion.png"]) == [f"{share:.0f}" for share in shares.flat]
    ax = drawn["confusion.png"].axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == NAMES


def test_the_curves_are_the_figures(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    draw_run(make_run(tmp_path / "run"))
    ax = drawn["accuracy_over_tasks.png"].axes[0]
    curves = {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in ax.lines}
    assert curves.keys() == {
        "task 1's classes, test",
        "task 2's classes, test",
        "all classes seen, test",
        "all classes seen, val",
    }
    np.testing.assert_allclose(curves["task 1's classes, test"], [[1, 90], [2, 25]])
    np.testing.assert_allclose(curves["task 2's classes, test"], [[2, 75]])
    np.testing.assert_allclose(curves["all classes seen, test"], [[1, 91], [2, 51]])
    np.testing.assert_allclose(curves["all classes seen, val"], [[1, 81], [2, 51]])


def test_without_test_figures_val_is_drawn_and_named(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    draw_run(make_run(tmp_path / "run", evaluate_test=False))
    assert texts(drawn["accuracy_matrix.png"]) == ["80.0", "35.0", "65.0"]
    for name in ("accuracy_matrix.png", "confusion.png"):
        assert ", val (%)" in titles(drawn[name])[0]
    labels = {str(line.get_label()) for line in drawn["accuracy_over_tasks.png"].axes[0].lines}
    assert labels == {"task 1's classes, val", "task 2's classes, val", "all classes seen, val"}


def test_the_latest_impressions_beside_means_and_real_images(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    folder = make_run(tmp_path / "run")
    real = SimpleNamespace(  # tensors, as the data room has them
        images=torch.randint(0, 256, (40, 3, 12, 12), dtype=torch.uint8), labels=torch.arange(40) % 4
    )
    draw_run(folder, real_images=real)
    fig = drawn["impressions.png"]
    assert titles(fig) == ["mean", "impressions (synthesized)", "real images"]
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == NAMES[:2]  # task10.npz holds classes 0, 1
    columns = [round(ax.get_xlim()[1]) for ax in fig.axes]
    assert columns == [1, 4, 4]  # four impressions of each class in task10.npz, three in task2.npz

    with np.load(folder / "impressions" / "task10.npz") as made:
        images, labels = made["images"], made["labels"]
    shown = np.asarray(fig.axes[1].images[0].get_array())
    scale = 120 // 12
    pitch = shown.shape[0] // 2
    for c in (0, 1):
        for j, image in enumerate(images[labels == c]):
            cell = shown[c * pitch + scale // 2 :: scale, j * pitch + scale // 2 :: scale][:12, :12]
            np.testing.assert_array_equal(cell, image.transpose(1, 2, 0))


def test_a_run_without_impressions_has_no_picture_of_them(tmp_path: Path) -> None:
    written = draw_run(make_run(tmp_path / "run", impressions=False))
    assert sorted(path.name for path in written) == ["accuracy_matrix.png", "accuracy_over_tasks.png", "confusion.png"]


def test_many_tasks_and_classes(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    tasks, per_task = 8, 4
    names = [f"a class with quite a long name {i}" for i in range(tasks * per_task)]
    matrix = [[0.5] * (i + 1) for i in range(tasks)]
    confusion = [np.eye((i + 1) * per_task, dtype=int).tolist() for i in range(tasks)]
    same: dict[str, Any] = {"accuracy_matrix": matrix, "confusion": confusion, "accuracy_after_task": [0.5] * tasks}
    changes: dict[str, Any] = {"dataset": {"class_names": names}, "scenario": {"classes_per_task": [per_task] * tasks}}
    folder = make_run(tmp_path / "run", impressions=False, **changes, test=same, val=same)
    draw_run(folder)
    assert len(texts(drawn["accuracy_matrix.png"])) == tasks * (tasks + 1) // 2
    for path in (folder / "plots").glob("*.png"):
        with Image.open(path) as image:
            assert max(image.size) < 4000


def test_a_class_without_test_images_leaves_its_row_empty(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    folder = make_run(tmp_path / "run", test=figures("test") | {"confusion": [[[0, 0], [1, 3]]]}, impressions=False)
    draw_run(folder)
    assert texts(drawn["confusion.png"]) == ["25", "75"]


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no result\.json; expected the folder of a finished run"):
        draw_run(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"result\.json is damaged"):
        draw_run(tmp_path)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_rgb_after_a_task(tmp_path: Path, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, channels, 28, 28), dtype=np.uint8)
    out = tmp_path / "sub" / "impressions.png"
    assert draw_impressions(out, images, np.array([0, 0, 2, 2, 2, 0]), NAMES) == out
    assert sorted(path.name for path in out.parent.iterdir()) == ["impressions.pdf", "impressions.png"]


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4), side=st.integers(1, 150), seed=st.integers(0, 9))
def test_a_mosaic_holds_every_pixel_and_is_white_elsewhere(sizes: list[int], side: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows = [draw.integers(0, 255, (count, 1, side, side), dtype=np.uint8) for count in sizes]  # 254 at most: not white
    columns = max(sizes) or 1
    canvas = _mosaic(rows, columns)
    scale = max(1, round(120 / side)) if max(sizes) else 120
    drawn_pixels = int((canvas != 255).all(axis=2).sum())
    assert drawn_pixels == sum(sizes) * (side * scale) ** 2
    assert canvas.shape[0] * columns == canvas.shape[1] * len(sizes)


def test_nothing_is_written_to_the_home_folder(tmp_path: Path) -> None:
    folder, home, temporary = make_run(tmp_path / "run", impressions=False), tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    environment = {key: v for key, v in os.environ.items() if not key.startswith(("MPL", "XDG"))}
    environment |= {"HOME": str(home), "TMPDIR": str(temporary)}
    program = "import sys; from pathlib import Path; from ccsi.report import draw_run; draw_run(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", program, str(folder)], env=environment, check=True, timeout=120)
    assert list(home.iterdir()) == []
    assert (folder / "plots" / "confusion.png").exists()
