"""What ccsi fit and ccsi extend have in common: one process, or several workers; then what is new."""

from collections.abc import Mapping
from typing import Any

from ccsi.cli.help import print_text
from ccsi.errors import UserError


def learn(composed: Mapping[str, Any], old_folder: str | None) -> None:
    """Fit or extend as the configuration says, and print what the new model is."""
    from ccsi.config import build
    from ccsi.io.paths import absolute
    from ccsi.model import load
    from ccsi.model.card import news
    from ccsi.model.compose import in_process
    from ccsi.model.folder import check_new, read_record

    if composed["out"] in (None, "???"):
        raise UserError("out is not set; expected the new model's folder: give out=MODEL on the command line.")
    if composed["workers"] == 1:
        learning = build(in_process(dict(composed)))()
        learning.learn(None if old_folder is None else load(old_folder, composed["device"]))
    else:
        from ccsi.sweep.train import learn_shared

        check_new(absolute(composed["out"], "out"))
        learn_shared(dict(composed), None if old_folder is None else str(absolute(old_folder, "OLD")))
    print_text(news(read_record(composed["out"]), composed["out"]))
