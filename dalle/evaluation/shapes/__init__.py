"""Judging generated pictures of the built-in captioned shapes, without a learned model."""

from dalle.evaluation.shapes.rates import (
    ATTRIBUTES,
    Pictures,
    Rates,
    at_chance,
    best_of,
    candidate_rates,
    chance,
    rates,
    read_all,
    shuffled,
)
from dalle.evaluation.shapes.report import (
    GROUPS,
    GroupResult,
    Prompted,
    evaluate_group,
    prompt_set,
    table,
)
from dalle.evaluation.shapes.said import read_captions
from dalle.evaluation.shapes.verify import ReaderReport, verify_reader

__all__ = [
    "ATTRIBUTES",
    "GROUPS",
    "GroupResult",
    "Pictures",
    "Prompted",
    "Rates",
    "ReaderReport",
    "at_chance",
    "best_of",
    "candidate_rates",
    "chance",
    "evaluate_group",
    "prompt_set",
    "rates",
    "read_all",
    "read_captions",
    "shuffled",
    "table",
    "verify_reader",
]
