"""The card of a model: what it is, may do, and holds.

The card of a model: what it is, what it may and may not do, how it was
evaluated, and what it still holds of real images, by kind and bytes. Nothing in
the folder is executed, and no tensor is read.

  ccsi show model_2026            the card
  ccsi show model_2026 | less     page by page
  ccsi show model_2026 > card.md  as Markdown
"""

from ccsi.cli._paths import split_paths
from ccsi.cli.help import print_text

EXPECTED = "the folder of a model"


def main(arguments: list[str]) -> None:
    """Show the card of the model in `arguments`."""
    from ccsi.model.card import card_text
    from ccsi.model.folder import read_record

    paths, others = split_paths(arguments, ["MODEL"], "ccsi show MODEL")
    if others:
        from ccsi.errors import UserError

        raise UserError(f"{others[0]}: expected MODEL alone, such as ccsi show MODEL.")
    print_text(card_text(read_record(paths[0])).rstrip())
