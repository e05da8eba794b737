"""Importing what a `_target_` names: a module that is installed, or a file of the user's, whatever it is called."""

import sys
import sysconfig
import traceback
from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

INSTALLED = tuple({str(Path(sysconfig.get_path(kind)).resolve()) for kind in ("stdlib", "platstdlib", "purelib")})
"""Folders of modules that are not the user's."""


def import_name(name: str) -> str:
    """The name by which Python imports a `_target_`'s module; raises what its import raises.

    Python finds its own `test` before a `test.py` in the working folder or a `--config-dir`, and `ccsi` before a
    `ccsi.py`: such a file is loaded from its path, as another module.
    """
    file = next(own_files(name), None)
    if file is None or is_found(name, file):
        return name
    alias = f"own_file_{name.replace('.', '_')}"
    loaded = sys.modules.get(alias)
    if loaded is not None and loaded.__file__ == str(file):
        return alias
    spec = spec_from_file_location(alias, file)
    assert spec is not None and spec.loader is not None  # as its name ends with .py
    module = sys.modules[alias] = module_from_spec(spec)  # a dataclass looks its module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[alias]
        raise
    return alias


def own_files(name: str) -> Iterator[Path]:
    """The files of this name in the folders of `sys.path` that are the user's."""
    for folder in sys.path:
        file = Path(folder, f"{name}.py").absolute()
        if file.is_file() and not is_installed(str(file.resolve())):
            yield file


def is_installed(file: str) -> bool:
    """Whether a file belongs to Python or an installed package."""
    return file.startswith(INSTALLED) or "/site-packages/" in file


def is_found(name: str, file: Path) -> bool:
    """Whether Python itself finds this file for a module's name."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == file.resolve()


def explain_import(error: BaseException, name: str) -> str:
    """Why importing the module `name`, or a lookup in it, failed; with file and line where its own code raised it."""
    what = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    first = next((n for n, frame in enumerate(frames) if frame.filename.startswith("<frozen importlib")), len(frames))
    inside = [frame for frame in frames[first:] if not frame.filename.startswith("<frozen importlib")]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    if inside:
        frame = next((frame for frame in reversed(inside) if not is_installed(frame.filename)), inside[-1])
        return f"{frame.filename}, line {frame.lineno}: {what}"
    if isinstance(error, ModuleNotFoundError):
        return f"{what}; its file must lie in the working folder, in a --config-dir or in a folder of PYTHONPATH"
    file = getattr(sys.modules.get(name), "__file__", None)
    return f"{what}; the module is {file}" if isinstance(error, AttributeError) and file else what
