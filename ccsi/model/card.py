"""MODEL_CARD.md: what a model is, for people, from its record alone."""

from ccsi.model.record import ModelRecord


def card_text(record: ModelRecord) -> str:
    """The model card in Markdown."""
    return f"# {record.learner}: {', '.join(record.class_names)}\n"
