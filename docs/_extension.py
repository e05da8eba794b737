"""For the API pages: brackets in docstrings are brackets, R[i][j] is no link."""

import re
from typing import Any

import griffe


class LiteralBrackets(griffe.Extension):
    """Escapes what Markdown would read as a reference."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            parts = re.split(r"(`[^`]*`)", obj.docstring.value)  # code stays as it is
            parts[::2] = [re.sub(r"\[([^\[\]\n]+)\](?=\[)", r"\\[\1\\]", part) for part in parts[::2]]
            obj.docstring.value = "".join(parts)
