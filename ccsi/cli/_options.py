"""The options that subcommands share: `--help`, `--config-dir DIR`, and those a subcommand names."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ccsi.errors import UserError


@dataclass
class Options:
    """A command line, taken apart.

    Attributes:
        overrides: what is no option: key=value, files. flags: the options given, `-h` as `--help`.
        config_dirs: folders of configs beside the package's own.
    """

    overrides: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    config_dirs: list[Path] = field(default_factory=list)

    @property
    def help(self) -> bool:
        """Whether help was asked for."""
        return "--help" in self.flags


def parse(arguments: Sequence[str], flags: Sequence[str] = (), expected: str = "key=value") -> Options:
    """Take a command line apart and make the folders of `--config-dir` known to `ccsi.config`.

    Args:
        flags: options without a value that the subcommand knows beside `--help`.
        expected: what it takes beside options; `--config-dir` belongs to key=value.

    Raises:
        UserError: an unknown option; `--config-dir` without a folder, or see `ccsi.config.add_config_dir`.
    """
    found, rest = Options(), iter(arguments)
    known = ["--help", *flags, *(["--config-dir"] if expected == "key=value" else [])]
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name == "--config-dir" and name in known:
            text = value if equals else next(rest, "")
            if not text:
                raise UserError("--config-dir has no value; expected a folder of configs: --config-dir DIR.")
            found.config_dirs.append(Path(text).expanduser())
        elif argument in ("-h", "--help"):
            found.flags.add("--help")
        elif argument in flags:
            found.flags.add(argument)
        elif argument.startswith("-"):
            raise UserError(f"{argument} is not an option; expected {expected}, or {' or '.join(known)}.")
        else:
            found.overrides.append(argument)
    if found.config_dirs:
        from ccsi import config

        for folder in found.config_dirs:
            config.add_config_dir(folder)
    return found
