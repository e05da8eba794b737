"""From what was typed to checked, plain objects.

`compose` builds the tree under `configs/` with Hydra. Every node with a `_target_` is checked against the type hints of
that callable, so a key's type and range are declared once, where it is used. What is wrong with the user's input is a
`UserError` that names the full key, before any work starts.
"""

from ccsi.config.compose import (
    add_config_dir,
    as_typed,
    build,
    choices,
    config_dir,
    from_arguments,
    groups,
    is_file,
    is_group,
    load,
    parse,
    with_dataset,
)
from ccsi.config.tree import (
    Config,
    apply,
    check_aliases,
    current_names,
    current_targets,
    flat,
    nodes,
    original_keys,
    read,
    to_yaml,
    unknown_key,
)
from ccsi.config.validation import adapter, check, describe, shown, signature_of, target_of

__all__ = ["Config", "adapter", "add_config_dir", "apply", "as_typed", "build", "check", "check_aliases", "choices"]
__all__ += ["config_dir", "current_names", "current_targets", "describe", "flat", "from_arguments", "groups"]
__all__ += ["is_file", "is_group", "load", "nodes", "original_keys", "parse", "read", "shown", "signature_of"]
__all__ += ["target_of", "to_yaml", "unknown_key", "with_dataset"]
