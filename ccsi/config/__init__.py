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
    is_group,
    load,
    parse,
)
from ccsi.config.tree import Config, apply, current_targets, flat, original_targets, read, to_yaml
from ccsi.config.validation import adapter, check, describe, shown

__all__ = ["add_config_dir", "build", "choices", "config_dir", "from_arguments", "groups", "is_group", "load", "parse"]
__all__ += ["Config", "apply", "current_targets", "flat", "original_targets", "read", "to_yaml"]
__all__ += ["adapter", "check", "describe", "shown"]
