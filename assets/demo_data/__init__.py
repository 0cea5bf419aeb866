"""The text that the demo model learns from: skills, dialogues, and the split into training and held-out."""

from .corpus import (
    EXACT_SKILLS,
    SPECIAL_TOKENS,
    Piece,
    heldout_documents,
    heldout_prompts,
    heldout_stories,
    pieces,
    render,
    training_documents,
)
from .turns import Turn, is_heldout, normalise

__all__ = [
    "EXACT_SKILLS",
    "SPECIAL_TOKENS",
    "Piece",
    "Turn",
    "heldout_documents",
    "heldout_prompts",
    "heldout_stories",
    "is_heldout",
    "normalise",
    "pieces",
    "render",
    "training_documents",
]
