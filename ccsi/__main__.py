"""`python -m ccsi …`: one run, no Ray."""

import signal
import sys
from collections.abc import Sequence

from ccsi import config
from ccsi.errors import UserError

HELP = """\
One run of class-incremental learning, from data to a folder of results.

  python -m ccsi dataset=digits learner=ccsi          a run; the same command again goes on with it
  python -m ccsi path/to/best.yaml seed=5             a complete configuration from a file, with changes
  python -m ccsi experiment=quick/pbcblood --show     print the resolved configuration and stop

Groups (choose with group=name):
{groups}

Common settings (key=value):
  dataset.path=FILE dataset.root=FOLDER dataset.size=32 dataset.fit=pad|resize dataset.max_per_class=N
  scenario.classes_per_task=2|[3,2,2]|{{first:4,increment:2}}  scenario.class_order=natural|shuffle|[1,0,…]
  model.norm=cn|batch  model.groups=8  learner.synthesis.iterations=N  learner.synthesis.per_class=N
  learner.distillation=5  learner.w_margin=1  learner.w_idc=1  (0 switches a loss off)
  training.epochs=N  training.batch_size=N  training.lr=X  training.precision=float32|bfloat16
  device=auto|cpu|cuda  threads=N  seed=N  run_dir=FOLDER  report=true|false
  tracking.wandb.mode=disabled|offline|online  tracking.console.quiet=true
All settings: add --show."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run with command-line `arguments`; returns the exit code (0 done, 2 bad input, 130 interrupted)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = {a for a in arguments if a.startswith("-")}
    if {"-h", "--help"} & options:
        print(HELP.format(groups=config.groups_help()))
        return 0
    try:
        if unknown := options - {"--show"}:
            raise UserError(f"{min(unknown)} is not an option; expected key=value, or --help or --show.")
        settings = config.from_arguments([a for a in arguments if a not in options])
        if options:
            print(config.to_yaml(settings), end="")
            return 0
        config.build(settings)()
    except UserError as error:
        print(f"ccsi: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ccsi: interrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what a scheduler sends is like Ctrl-C
    sys.exit(main())
