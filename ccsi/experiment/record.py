"""What result.json says of a run (see docs: a run's folder). `ccsi.io.run_files.read_result` reads it back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from ccsi.distributed import ProcessGroup
from ccsi.evaluation import metrics
from ccsi.experiment.checkpoint import sha256_of
from ccsi.experiment.environment import hardware
from ccsi.experiment.tasks import RunSession, Setup
from ccsi.io.run_files import SCHEMA, finite

PROTOCOLS = {
    "all_tasks": "joint training on the images of all tasks (upper bound)",
    "unlabeled_pool": "transductive: uses unlabelled val images of all classes seen",
    "test_images": "leaks unlabelled test images into training (only to measure the leak)",
}
"""What a permission means for the figures it was used for."""


def result_of(setup: Setup, session: RunSession, name: str, seed: int, about_data: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a finished run's result.json; `about_data`: what else it says of the data set.

    `val` and `test` hold the same figures (see `ccsi.evaluation.metrics.figures`); null if a split was not evaluated.
    """
    data, learner, order = setup.data, setup.learner, [c for classes in setup.plan for c in classes]
    stored, weights = learner.stored(), learner.net.state_dict()
    exemplars = any(item.kind == "exemplars" for item in stored)
    protocol = "; ".join(PROTOCOLS[p] for p in learner.permissions) or ("exemplar replay" if exemplars else "data-free")
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "name": f"{name}-s{seed}",
        "dataset": {
            "name": data.name,
            "checksum": data.checksum,
            "class_names": [data.class_names[c] for c in order],
            **{split: len(getattr(data, split)) for split in ("train", "val", "test")},
            **about_data,
        },
        "scenario": {"class_order": order, "classes_per_task": [len(classes) for classes in setup.plan]},
        "seed": seed,
        "learner": learner.name,
        "kind": learner.kind,
        "data_free": not learner.permissions and not exemplars,
        "permissions": list(learner.permissions),
        "protocol": protocol,
        "stored": [dataclasses.asdict(item) for item in stored],
        "weights_sha256": sha256_of(weights),
        "parameters": sum(value.numel() for key, value in weights.items() if "running_" not in key),
        "test": metrics.EMPTY,
        **setup.figures(),
        **session.record,
        "seconds": session.seconds | {"total": session.total()},
        "peak_memory_bytes": session.peak_bytes,
        "threads": torch.get_num_threads(),
        "workers": ProcessGroup.current().world_size,
        "device": hardware(session.device),
        "versions": session.start["versions"],
        "commit": session.start["commit"],
        "starts": session.starts(),
    }
    return finite(result)
