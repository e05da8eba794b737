"""`ccsi sweep …`: many runs on Ray, in two phases, and their tables."""

import sys
from collections.abc import Sequence

from rich.console import Console

from ccsi.config import groups_help
from ccsi.errors import UserError
from ccsi.sweep.driver import debug, run_sweep
from ccsi.sweep.folder import open_sweep

HELP = """\
A sweep: settings are searched on tuning seeds by val accuracy, the best are run again on fresh seeds and reported.

  ccsi sweep                             the default sweep on digits
  ccsi sweep dataset=pbcblood dataset.path=FILE sweep.dir=FOLDER sweep.num_samples=20
  ccsi sweep 'sweep.space={{learner.w_idc: {{choice: [0, 1]}}, training.lr: {{loguniform: [0.01, 0.2]}}}}'
  ccsi sweep experiment=rivals/digits               every learner, tuned alike, in one table
  ccsi sweep resume=FOLDER                          go on with an interrupted sweep (or its storage's URL)

The sweep (key=value):
  sweep.space={{KEY: {{choice|grid: [a, b, …]}}, KEY: {{uniform|loguniform|randint: [low, high]}}}}
                            any configuration key, or a group (learner: {{grid: [ccsi, finetune]}});
                            {{each: {{ccsi: {{KEY: …}}, lwf: null}}}} compares them, each in its space (sweep=rivals)
  sweep.search=random|grid|optuna  sweep.num_samples=N  sweep.seed=N  sweep.scheduler=none|asha|median
  sweep.seeds.tuning=[100,101]  sweep.seeds.reporting=[0,1,2]  sweep.top_k=2
  sweep.metric=val_average_incremental|val_macro|val_micro  sweep.minimize=null|seconds (both aims: Pareto fronts)
  sweep.budget.hours=H  sweep.budget.trials=N  sweep.patience=N  (where phase 1 ends early; phase 2 always runs)
  sweep.warm_start=[FOLDER, …]  earlier sweeps over the same keys, whose best settings are tried first
  sweep.dir=FOLDER (default sweeps/<name>)  sweep.name=NAME  sweep.max_concurrent=N  sweep.max_failures=N
  sweep.storage=URL         where runs are kept if machines share no folder: s3://bucket/folder (default: sweep.dir)
  sweep.debug=true          the first trial in this process, without Ray, for a debugger
  resources.cpu=X (of a trial; default: its threads)  resources.gpu=X|auto (0.25: four trials share a card)
  ray.address=null|auto|HOST:PORT  ray.autoscale=true|false  ray.dashboard=true|false  ray.num_cpus=N

Everything else is a setting of the runs, as for `python -m ccsi` (see its --help). Groups:
{groups}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code.

    0: done. 1: interrupted by an error, no figures, or a reported trial lacks seeds. 2: bad input. 130: Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(arguments):
        print(HELP.format(groups=groups_help("sweep")))
        return 0
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a log file has room for a table
    try:
        with open_sweep(arguments) as definition:
            return debug(definition, console) if definition.sweep.debug else run_sweep(definition, console)
    except UserError as error:
        print(f"sweep: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sweep: interrupted.", file=sys.stderr)
        return 130
