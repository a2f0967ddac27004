"""Noticing that a codebook has collapsed, and saying so in words that help.

It collapses in two ways. A few codes are used for everything: the encoder was sure of them before
the decoder could tell more apart, mostly within the first hundred updates. Or any code is as good
as another: the posterior stays uniform, the decoder has learned to do without, and the codebook
looks well used, though its codes are noise.
"""

from dalle.nn.quantize import CodebookUse

FEW = 1 / 16
"""Share of the codes at which they are few: a collapsed run used 3 of 64, a healthy one of flat
drawings, where most cells are white, 28 of 256."""
ONE = 2.0
"""Perplexity below which nearly all cells have the same code."""
NOTHING = 0.1
"""Nats per cell: a posterior nearer to uniform than that says nothing of the picture."""


def name_collapse(use: CodebookUse, *, kl: float, num_codes: int, num_cells: int) -> str | None:
    """What is wrong with a codebook and what to do about it, in a sentence; None if nothing is.

    Args:
        use: of the argmax codes of held-out pictures.
        kl: of their posterior to uniform, in nats per cell.
        num_codes: of the codebook.
        num_cells: how many codes were looked at.
    """
    if kl < NOTHING:
        return (
            f"the codes say nothing of the pictures: their posterior is {kl:.2g} nats from "
            "uniform, so that the decoder does without them. Lower kl_weight and balance_weight, "
            "or the step size"
        )
    if use.codes_used <= FEW * min(num_codes, num_cells) or use.perplexity < ONE:
        return (
            f"the codebook has collapsed: {use.codes_used} of {num_codes} codes are in use "
            f"(perplexity {use.perplexity:.1f}). Set balance_weight to 0.1, in a new run or in "
            "this one (with --allow-change balance_weight); a new run also with a longer warm-up, "
            "or a KL weight from the beginning that is gone by half-way (kl_rise 0.001, kl_fall "
            "0.5)"
        )
    return None
