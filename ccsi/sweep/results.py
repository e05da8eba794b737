import json
from pathlib import Path
from typing import Any

from ccsi.errors import UserError

RENAMED = {
    "final_accuracy_macro": "macro",
    "final_accuracy_micro": "micro",
    "average_incremental_accuracy": "average_incremental",
}
FIGURES = (
    "accuracy_matrix",
    "accuracy_after_task",
    "final_accuracy_macro",
    "final_accuracy_micro",
    "average_incremental_accuracy",
    "forgetting",
    "forgetting_nonnegative",
    "backward_transfer",
    "auc",
    "auc_after_task",
    "recall_per_class",
    "confusion",
)


def read_result(folder: Path) -> dict[str, Any] | None:
    """Stand-in until the experiment room lands."""
    try:
        result = json.loads((folder / "result.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise UserError(f"{folder / 'result.json'} is damaged ({error}): remove the folder to run it again.") from error
    if not isinstance(result, dict):
        raise UserError(f"{folder / 'result.json'} is damaged: remove the folder to run it again.")
    if "test" not in result:
        result["test"] = {RENAMED.get(k, k): result.pop(k) for k in FIGURES if k in result}
        result["val"] = {RENAMED.get(k, k): v for k, v in result["val"].items()}
    return result
