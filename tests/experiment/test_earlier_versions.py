"""A run begun at commit 4c57aa6 (iCaRL, after its first task; see `tiny_run`) resumes; what it left can be read.

The checkpoint has its digest in front, config.yaml names a target that has moved since, and result.json is schema 1.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_run import composed, run_tiny, tiny

from ccsi.errors import UserError
from ccsi.evaluation import metrics
from ccsi.experiment.folder import default_run_dir
from ccsi.io.run_files import SCHEMA, finite, read_result

ICARL = ["learner=icarl", "dataset.draw=together"]
"""As typed for that version, and the draw of images that it had."""
BEGUN = Path(__file__).with_name("begun_at_4c57aa6")


def finished(folder: Path) -> dict[str, Any]:
    """The result that the run had at that commit, read by us."""
    folder.mkdir()
    shutil.copyfile(BEGUN / "finished.json", folder / "result.json")
    result = read_result(folder)
    assert result is not None
    return result


def test_it_resumes(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("config.yaml", "checkpoint.pt", "metrics.jsonl"):
        shutil.copyfile(BEGUN / name, tmp_path / "run" / name)
    tasks: list[int] = []
    resumed = run_tiny(tmp_path / "run", *ICARL, on_task_end=lambda event: tasks.append(event.task))
    assert tasks == [0, 1, 2]
    expected, whole = finished(tmp_path / "old"), run_tiny(tmp_path / "whole", *ICARL)
    assert resumed["schema"] == whole["schema"] == SCHEMA
    assert resumed["val"]["confusion"][0] == expected["val"]["confusion"][0]
    assert resumed.keys() == whole.keys() == expected.keys() | {"starts"}
    (earlier, now), (only,) = resumed["starts"], whole["starts"]  # what that version did not record is null
    assert earlier.keys() == now.keys() == only.keys()
    assert {key for key, value in earlier.items() if value is not None} == {"seconds"} and earlier["seconds"] > 0
    assert now["versions"] == only["versions"] == whole["versions"] and now["device"] == whole["device"]
    for key in ("weights_sha256", "stored_after_task", "val", "test"):
        if whole["weights_sha256"] == expected["weights_sha256"]:  # this CPU rounds as the one it was begun on
            assert resumed[key] == expected[key] == whole[key]


def test_the_same_command_finds_the_folder_of_an_earlier_version() -> None:
    hashes = {"icarl": "119bea", "ccsi": "0a71a3", "er": "62d6ba", "joint": "0c5a36"}  # at 4c57aa6
    for learner, digits in hashes.items():
        folder = default_run_dir(None, "x", 0, composed(f"learner={learner}", "dataset.draw=together"))
        assert folder.name == f"x-s0-{digits}"


def test_keys_that_earlier_versions_lacked_change_no_folder_unless_they_are_set() -> None:
    keys = {"_target_": "ccsi.data.Folder", "path": "x", "val_share": 0.2}
    new = {**keys, "train": None, "val": None, "test": None, "groups": None, "range": None, "nested": False}
    folders = [default_run_dir(None, "x", 0, {"dataset": one}) for one in (keys, new, {**new, "groups": "a.csv"})]
    assert folders[0] == folders[1] != folders[2]


def test_figures_have_their_present_names(tmp_path: Path) -> None:
    old, new = json.loads((BEGUN / "finished.json").read_text()), finished(tmp_path / "old")
    assert new["schema"] == 3 and not {"acc", "macro", "accuracy_matrix"} & new.keys()
    assert (
        new["test"].keys()
        == new["val"].keys()
        >= {"macro_over_tasks", "micro", "average_incremental", "auc", "confusion"}
    )
    assert (new["test"]["macro_over_tasks"], new["val"]["micro"]) == (
        old["final_accuracy_macro"],
        old["val"]["final_accuracy_micro"],
    )
    assert new["test"]["average_incremental"] == old["average_incremental_accuracy"]
    assert new["seconds"] == old["seconds"]
    for split in ("test", "val"):
        assert new[split] == figures_of(new[split], new["scenario"]["classes_per_task"])
    for key in ("final_accuracy_macro", "accuracy_matrix", "auc"):
        old[key] = None  # as without test
    (tmp_path / "old" / "result.json").write_text(json.dumps(old))
    without = read_result(tmp_path / "old")
    assert without is not None and without["test"]["macro_over_tasks"] is without["test"]["accuracy_matrix"] is None


def figures_of(split: dict[str, Any], sizes: list[int]) -> dict[str, Any]:
    """What we would write today of a split with these confusions."""
    return metrics.figures(split["confusion"], sizes, split["auc_after_task"])


def test_macro_of_schema_2_is_macro_over_tasks_now_and_macro_over_classes_follows(tmp_path: Path) -> None:
    val = metrics.figures([[[3, 1], [0, 0]], [[4, 0, 0], [0, 0, 0], [1, 0, 1]]], [2, 1], [0.9, 0.9])
    old = {"macro" if name == "macro_over_tasks" else name: one for name, one in val.items()}
    del old["macro_over_classes"]
    text = finite({"schema": 2, "val": old, "test": dict.fromkeys(old), "seed": 3})
    (tmp_path / "result.json").write_text(json.dumps(text))
    read = read_result(tmp_path)
    assert read == finite({"schema": SCHEMA, "val": val, "test": metrics.EMPTY, "seed": 3})
    assert read is not None and list(read["val"]) == list(metrics.EMPTY)
    assert (read["val"]["macro_over_tasks"], read["val"]["macro_over_classes"]) == ((1 + 1 / 2) / 2, (1 + 1 / 2) / 2)


@pytest.mark.parametrize("content", ["", "{", "[]", "\xff"])
def test_a_damaged_result(content: str, tmp_path: Path) -> None:
    assert read_result(tmp_path) is None and read_result(tmp_path / "nothing") is None
    (tmp_path / "result.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"result\.json is damaged .*: remove the folder to run it again\.$"):
        read_result(tmp_path)


def test_what_the_fixture_was_begun_with() -> None:
    assert "ccsi.exemplars.Budget" in (BEGUN / "config.yaml").read_text()
    assert len(tiny("icarl")) > 5
