"""How many tokens of a prefill go into one step.

Decodes come first, so a long prefill never delays them by more than one step of `max_step_tokens`; what is left goes to
prefills in order of admission. A chunk that doesn't finish its history ends on a block border, so that what it computed
can be shared at once and adopted mid-way.
"""


def chunk_length(start: int, remaining: int, budget: int, block_size: int) -> int:
    """Tokens to prefill now from position `start`, of `remaining` left in the history, within `budget`; 0 is none.

    Falls back to an unaligned chunk where the budget ends before the first border: slow progress beats none.
    """
    if remaining <= budget:
        return remaining
    if budget <= 0:
        return 0
    aligned = (start + budget) // block_size * block_size - start
    return aligned if aligned > 0 else budget
