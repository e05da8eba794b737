"""What a local Ray reads from the environment. Ray reads it at its import, so this module does not import it."""

import os
import secrets
from importlib.util import find_spec

from ccsi.errors import UserError


def keep_ray_private() -> None:
    """Set, before `ray` is imported, that a local Ray stays on the loopback device and uses a token of its own."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # its name says where this is the default
    if "RAY_AUTH_MODE" not in os.environ:  # without a token Ray would write ~/.ray/auth_token
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def require_ray() -> None:
    """Raise UserError where Ray is not installed."""
    for package in ("ray", "pyarrow"):
        if find_spec(package) is None:
            raise UserError(f"this command needs the package {package}: pip install 'ccsi[sweep]'.")
