"""Many runs on Ray: a search on val, then the best on fresh seeds, then tables.

A sweep: a search on tuning seeds by val accuracy; the best configs run again on
fresh seeds, and only these are reported.

  ccsi sweep                          the default sweep, on digits
  ccsi sweep dataset.path=my_images sweep.num_samples=20
  ccsi sweep 'sweep.space={learner.w_idc: {choice: [0, 1]}}'
  ccsi sweep sweep.learners=[ccsi,er] these learners, tuned alike, in one table
  ccsi sweep experiment=rivals/digits every learner, tuned alike, in one table
  ccsi sweep resume=FOLDER            resume an interrupted sweep (or a URL)
  ccsi sweep resume=FOLDER sweep.num_samples=40
      go further, a finished one, too; also sweep.top_k, sweep.seeds.reporting

The sweep (key=value):
  sweep.space={KEY: {choice: [a, b]}, KEY: {loguniform: [low, high]}}
      KEY is any key of a run's configuration, or a group (learner). Also grid,
      uniform, randint. {each: {ccsi: {KEY: …}, lwf: null}} for the key learner
      gives each learner a space of its own (sweep=rivals)
  sweep.learners=[ccsi,er]            some of those that sweep=rivals compares
  sweep.search=random|grid|optuna  sweep.num_samples=N  sweep.seed=N
  sweep.scheduler=none|asha|median
  sweep.seeds.tuning=[100,101]  sweep.seeds.reporting=[0,1,2]  sweep.top_k=2
  sweep.metric=val_average_incremental|val_macro_over_tasks|
               val_macro_over_classes|val_micro
  sweep.minimize=null|seconds         seconds: Pareto fronts of both aims
  sweep.budget.hours=H  sweep.budget.trials=N  sweep.patience=N
      where the search ends early; the reporting phase always runs
  sweep.warm_start=[FOLDER, …]        earlier sweeps, whose best are tried first
  sweep.dir=FOLDER  sweep.name=NAME   default:
                                      sweeps/<date-time>-<four hex digits>
  sweep.max_concurrent=N  sweep.max_failures=N
  sweep.storage=URL                   s3://…, if the machines share no folder
  sweep.debug=true                    the first trial in this process, no Ray
  resources.cpu=X                     CPUs of a trial; default: its threads
  resources.gpu=X|auto                0.25: four trials share a card
  resources.workers=N                 data-parallel processes of a trial
  ray.address=null|auto|HOST:PORT  ray.autoscale=true|false
  ray.dashboard=true|false  ray.num_cpus=N

Options:
  --help            this text
  --dry-run         how many runs this is, and what is asked of Ray; stop there
  --show            print the resolved sweep, as sweep.yaml keeps it; stop there
  --config-dir DIR  a folder of configs beside the package's own

Everything else is a setting of the runs: see ccsi run --help. Groups:
{groups}
"""

from textwrap import fill

from ccsi.cli.help import print_text

RESUME = "resume it with ccsi sweep resume=FOLDER"
CONFIG = "sweep"


def main(arguments: list[str], dry_run: bool = False, show: bool = False) -> int:
    """Sweep with `arguments`; returns the exit code, see `run_sweep`."""
    from ccsi.sweep.driver import debug, run_sweep
    from ccsi.sweep.folder import open_sweep, resolve
    from ccsi.sweep.plan import describe_plan
    from ccsi.sweep.progress import open_console

    if dry_run or show:
        definition = resolve(arguments, fetch=False)
        plan = (fill(line, 80, subsequent_indent="    ") for line in describe_plan(definition))
        print_text(definition.dump() if show else "\n".join(plan))
        return 0
    console = open_console()
    with open_sweep(arguments) as definition:
        return debug(definition, console) if definition.sweep.debug else run_sweep(definition, console)
