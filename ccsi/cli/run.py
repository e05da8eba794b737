"""One run, from data to a folder of results."""

from collections.abc import Sequence

from ccsi.cli import _options
from ccsi.cli.help import page, show

RESUME = "the same command resumes from the last checkpoint"

HELP = """\
One run of class-incremental learning, from data to a folder of results.

  ccsi run dataset=digits learner=ccsi     a run; the same command resumes it
  ccsi run best.yaml seed=5                a complete configuration, changed
  ccsi run learner=ewc --help              what a learner is, and its settings;
                                           also dataset=…, model=…, training=…
  ccsi run experiment=quick/digits --show  print the configuration and stop

Options:
  --help            this text
  --show            print the resolved configuration and stop
  --config-dir DIR  a folder of configs beside the package's own

Groups (choose with group=name):
{groups}

Common settings (key=value):
  dataset.path=FILE  dataset.root=FOLDER  dataset.max_per_class=N
  dataset.size=32  dataset.fit=pad|resize
  scenario.classes_per_task=2|[3,2,2]|{{first:4,increment:2}}
  scenario.class_order=natural|shuffle|[1,0,…]
  model.norm=cn|batch  model.groups=8
  learner.synthesis.iterations=N  learner.synthesis.per_class=N
  learner.distillation=5  learner.w_margin=1  learner.w_idc=1  (0: off)
  training.epochs=N  training.batch_size=N  training.lr=X
  training.precision=float32|bfloat16
  device=auto|cpu|cuda  threads=N  seed=N  run_dir=FOLDER  report=true|false
  tracking.wandb.mode=disabled|offline|online
  tracking.console.quiet=true
All settings: add --show."""


def main(arguments: Sequence[str]) -> int:
    """Run with `arguments`; returns the exit code."""
    options = _options.parse(arguments, flags=("--show",))
    if options.help:
        show(page(HELP, "config", options))
        return 0
    from ccsi import config

    settings = config.from_arguments(options.overrides)
    if "--show" in options.flags:
        print(config.to_yaml(settings), end="")
        return 0
    config.build(settings)()
    return 0
