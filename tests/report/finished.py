"""A finished run's folder with made-up figures, for tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ["basophil", "eosinophil", "erythroblast", "platelet"]
MATRIX = {"test": [[0.9], [0.25, 0.75]], "val": [[0.8], [0.35, 0.65]]}
CONFUSION = [[[9, 1], [1, 9]], [[2, 2, 4, 0], [1, 3, 2, 2], [0, 1, 6, 1], [1, 0, 1, 6]]]


def figures(split: str) -> dict[str, Any]:
    """All figures of one split; micro is a little off the macros, to tell them apart."""
    matrix = MATRIX[split]
    after = [float(np.mean(row)) + 0.01 for row in matrix]
    return {
        "accuracy_matrix": matrix,
        "macro_over_tasks": after[-1] - 0.01,
        "macro_over_classes": after[-1] + 0.02,
        "micro": after[-1],
        "average_incremental": float(np.mean(after)),
        "accuracy_after_task": after,
        "forgetting": matrix[0][0] - matrix[1][0],
        "backward_transfer": matrix[1][0] - matrix[0][0],
        "auc": 0.875,
        "confusion": CONFUSION,
    }


def result(evaluate_test: bool = True, **changes: Any) -> dict[str, Any]:
    """The content of result.json."""
    test = figures("test")
    return {
        "schema": 3,
        "name": "blood-ccsi-s0",
        "dataset": {"name": "PBC blood", "class_names": NAMES},
        "scenario": {"class_order": [0, 1, 2, 3], "classes_per_task": [2, 2]},
        "learner": "ccsi",
        "data_free": True,
        "permissions": [],
        "protocol": "data-free",
        "seed": 0,
        "test": test if evaluate_test else dict.fromkeys(test),
        "val": figures("val"),
        "stored": [
            {"kind": "class means", "count": 8, "bytes": 75264},
            {"kind": "moments", "count": 8, "bytes": 9216},
        ],
        "seconds": {"synthesis": 61.0, "training": 100.0, "total": 3725.0},
        **changes,
    }


def make_run(folder: Path, impressions: bool = True, evaluate_test: bool = True, **changes: Any) -> Path:
    """Write a finished run's files to `folder`."""
    (folder / "impressions").mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result(evaluate_test, **changes)))
    if impressions:
        draw = np.random.default_rng(0)
        for task, count in ((2, 6), (10, 8)):  # by number, not by name, the tenth is the latest
            images = draw.integers(0, 256, (count, 3, 12, 12), dtype=np.uint8)
            np.savez(folder / "impressions" / f"task{task}.npz", images=images, labels=np.arange(count) % 2)
        np.savez(folder / "class_means.npz", images=draw.random((4, 3, 12, 12), dtype=np.float32))
    return folder
