"""From what was typed to checked, plain objects.

`compose` builds the tree under `configs/` with Hydra. Every node with a `_target_` is checked against the type hints of
that callable, so a setting's type and range are declared once, where the setting is used, and an error names the full
key before any work starts.
"""

from ccsi.config.compose import (
    add_config_dir,
    build,
    choices,
    config_dir,
    from_arguments,
    groups,
    groups_help,
    is_group,
    load,
    parse,
)
from ccsi.config.messages import describe, shown
from ccsi.config.tree import Config, apply, current_targets, flat, original_targets, to_yaml
from ccsi.config.validation import adapter, check

__all__ = [
    "Config",
    "adapter",
    "add_config_dir",
    "apply",
    "build",
    "check",
    "choices",
    "config_dir",
    "current_targets",
    "describe",
    "flat",
    "from_arguments",
    "groups",
    "groups_help",
    "is_group",
    "load",
    "original_targets",
    "parse",
    "shown",
    "to_yaml",
]
