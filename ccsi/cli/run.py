"""One run, from data to a folder of results.

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
  scenario.classes_per_task=2|[3,2,2]|{first:4,increment:2}
  scenario.class_order=natural|shuffle|[1,0,…]|[cat,dog,…]
  model.norm=cn|batch  model.groups=8
  learner.synthesis.iterations=N  learner.synthesis.per_class=N
  learner.distillation=5  learner.w_margin=1  learner.w_idc=1  (0: off)
  training.epochs=N  training.batch_size=N  training.lr=X
  training.precision=float32|bfloat16
  device=auto|cpu|cuda  threads=N  seed=N  run_dir=FOLDER
  report=true|false  report.real_images=true
  tracking.wandb.mode=disabled|offline|online
  tracking.console.quiet=true
All settings: add --show.
"""

from ccsi.cli.help import print_text

RESUME = "the same command resumes it"
CONFIG = "config"


def main(arguments: list[str], show: bool = False) -> None:
    """Run with `arguments`, or only show the configuration."""
    from ccsi import config

    composed = config.from_arguments(arguments)
    if show:
        print_text(config.to_yaml(composed).rstrip())
    else:
        config.build(composed)()
