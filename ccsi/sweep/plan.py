"""What a sweep would do, before it does anything."""

import os
from dataclasses import replace

from ccsi.config import shown
from ccsi.sweep.definition import Definition
from ccsi.sweep.pruners import SCHEDULER_NAMES
from ccsi.sweep.state import SweepState


def describe_plan(definition: Definition) -> list[str]:
    """How many runs a sweep has, over which space, and what each asks of Ray: a line each."""
    sweep, resources = definition.sweep, definition.resources
    state = SweepState(replace(definition, begun=None))
    searched = sweep.num_samples if sweep.search == "optuna" else len(state.incomplete)
    searched = min(searched, sweep.budget.trials or searched)
    n_tuning, n_reporting = len(sweep.seeds.tuning), len(sweep.seeds.reporting)
    n_finalists = len(state.arms) or min(sweep.top_k, searched)
    scheduler, gpu, address = SCHEDULER_NAMES[sweep.scheduler], shown(resources.gpu), definition.ray.address
    each = f"{definition.cpus():g} CPUs and {gpu} GPUs" + (" (measured first)" if gpu == "auto" else "")
    workers = f"{resources.workers} workers of {each} each" if resources.workers > 1 else each
    cpus = definition.ray.num_cpus or os.cpu_count() or 1
    folder = f"sweeps/{sweep.name or '<date-time>-<four hex digits>'}"
    n_searched, n_reported = searched * n_tuning, n_finalists * n_reporting
    return [
        f"Search: {definition.search}{f', {scheduler}' if scheduler else ''}, by mean {sweep.metric}",
        *(f"  {dimension.key}: {dimension.kind} {list(dimension.values)}" for dimension in definition.space),
        f"Phase 1: at most {searched} trials x {n_tuning} tuning seeds = {n_searched} runs, on val",
        f"Phase 2: the best {n_finalists} x {n_reporting} reporting seeds = {n_reported} runs, with test",
        f"Asked of Ray: {workers} for a trial, {sweep.max_concurrent or 'as many as fit'} at a time",
        f"On: this machine, {cpus} CPUs" if address is None else f"On: the cluster at {address}",
        f"Folder: {sweep.dir or folder}",
    ]
