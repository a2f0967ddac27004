"""What comes after the logits, and what guidance costs, beside what each took the place of.

    python benchmarks/sampling.py [--rounds R] [--json FILE]

Drawing: 64 rows of 8,192 logits. Guidance: a step of 16 prompts with one sample each, of the toy of
decoding.py at slot 512; the step is that of fixed shape which `dalle generate` runs. All take their
turn in every round; a row has the median, and the median over rounds of the ratio to ours.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from decoding import IMAGE, SLOT, TEXT
from interleaved import conditions, in_turns, median_ratio, report
from torch import Tensor

from dalle.models.dalle import Dalle, DalleConfig
from dalle.nn.linear import weights_kept
from dalle.sampling.filters import Sampling, draw_token, noise_table
from dalle.sampling.fixed_step import FixedStep
from dalle.sampling.launches import LaunchShape

ROWS, PROMPTS = 64, 16
TOP_K, TOP_P = 256, 0.9


def main() -> None:
    """Print the table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    rows: list[dict[str, object]] = []
    with torch.inference_mode(), weights_kept():
        for name, calls in {**drawing(), "guidance": guidance()}.items():
            times = in_turns(calls, flags.rounds)
            rows += [
                {
                    "what": name,
                    "how": how,
                    "ms": 1000 * statistics.median(several),
                    "by_ours": median_ratio(several, times["ours"]),
                }
                for how, several in times.items()
            ]
    report(rows, flags.json, **conditions())


def drawing() -> dict[str, dict[str, Callable[[], Tensor]]]:
    """Ways to draw a token for each row, by how it is filtered."""
    torch.manual_seed(0)
    logits, uniform = 2 * torch.randn(ROWS, IMAGE), torch.rand(ROWS)
    noise = torch.randint(2**63 - 1, (ROWS,))

    def ours(sampling: Sampling) -> Callable[[], Tensor]:
        return lambda: draw_token(logits, noise, sampling)

    def one_sum() -> Tensor:
        upto = torch.softmax(logits, dim=-1).cumsum(dim=-1)
        return torch.searchsorted(upto, uniform.unsqueeze(1) * upto[:, -1:], right=True)

    def masked() -> Tensor:
        least = logits.topk(TOP_K, dim=-1).values[:, -1:]
        kept = logits.masked_fill(logits < least, float("-inf"))
        return torch.multinomial(torch.softmax(kept, dim=-1), 1)

    def sorted_p() -> Tensor:
        ordered, order = logits.sort(dim=-1, descending=True)
        likely = torch.softmax(ordered, dim=-1)
        likely = likely.masked_fill(likely.cumsum(dim=-1) - likely >= TOP_P, 0.0)
        return order.gather(1, torch.multinomial(likely, 1))

    return {
        "nothing cut": {
            "ours": ours(Sampling()),
            "one sum over all": one_sum,
            "multinomial": lambda: torch.multinomial(torch.softmax(logits, dim=-1), 1),
        },
        f"top k {TOP_K}": {"ours": ours(Sampling(top_k=TOP_K)), "mask and multinomial": masked},
        f"top p {TOP_P}": {"ours": ours(Sampling(top_p=TOP_P)), "sort and multinomial": sorted_p},
    }


def guidance() -> dict[str, Callable[[], None]]:
    """Steps of guided pictures, and one of as many that are not."""
    torch.manual_seed(0)
    config = DalleConfig(text_vocab=TEXT, image_vocab=IMAGE, depth=6, width=384, heads=6)
    model = Dalle(config).eval()
    texts = torch.randint(0, TEXT, (PROMPTS, 256))
    texts[:, 0] = model.start_of_text

    def step(texts: Tensor, nulls: int) -> Callable[[], None]:
        sampling = Sampling(guidance=3.0 if nulls else 1.0)
        shape = LaunchShape(len(texts), 1)
        one = FixedStep(model, shape, sampling, nulls=nulls, record=False)
        one.begin(
            texts,
            noise=noise_table(list(range(len(texts))), 1024),
            given=torch.zeros(1024, dtype=torch.long),
            keep=torch.arange(1024) < SLOT,
        )

        def again() -> None:
            one.slot.fill_(SLOT)
            one.advance()

        return again

    captioned, without = step(texts, 0), step(model.no_caption(texts), 0)

    def two_passes() -> None:
        captioned()
        without()

    return {
        "ours": step(texts, 1),
        "a null text for each prompt": step(texts, PROMPTS),
        "two passes": two_passes,
        "no guidance": captioned,
    }


if __name__ == "__main__":
    main()
