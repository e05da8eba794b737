"""From what was typed to checked, plain objects.

`compose` builds the tree under `configs/` with Hydra. Every node with a `_target_` is checked against the type hints of
that callable, so a key's type and range are declared once, where it is used. What is wrong with the user's input is a
`UserError` that names the full key, before any work starts.
"""

from ccsi.config.compose import (
    add_config_dir,
    as_typed,
    build,
    check_overrides,
    check_root,
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
    current_names,
    current_targets,
    flat,
    nodes,
    original_keys,
    parse_yaml,
    read,
    to_yaml,
    unknown_key,
    with_added,
)
from ccsi.config.trust import check_resolvers, check_targets, trust_names, trusted
from ccsi.config.validation import adapter, check, describe, shown, signature_of, target_of

__all__ = ["Config", "adapter", "add_config_dir", "apply", "as_typed", "build", "check", "check_overrides"]
__all__ += ["check_resolvers", "check_root", "check_targets", "choices", "config_dir", "current_names"]
__all__ += ["current_targets", "describe", "flat", "from_arguments", "groups", "is_file", "is_group", "load", "nodes"]
__all__ += ["original_keys", "parse", "parse_yaml", "read", "shown", "signature_of", "target_of", "to_yaml"]
__all__ += ["trust_names", "trusted", "unknown_key", "with_added", "with_dataset"]
