"""Whether generated pictures are found by their prompts, by a CLIP that took no part in them.

    python benchmarks/generated_retrieval.py MODEL DATA --clip CLIP [--guidance G] [--json FILE]

DATA is a folder of pictures with captions; pictures of one subfolder form a group, and a prompt
looks for its own picture among those of its group only. One picture is drawn for each first
caption. Beside it stand the same pictures under shuffled captions, the real pictures, and chance.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import dalle
from dalle.data.sources import numbered, open_source
from dalle.evaluation.captioned import Pairs, read_pairs, shuffle_within
from dalle.protocols import JointEmbedder
from dalle.sampling.rerank import load_embedder


def main() -> None:
    """Print a table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--clip", required=True)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, help="prompts of each group; all of them by default")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    model, clip = dalle.load(flags.model, device="cpu"), load_embedder(flags.clip)
    real = _some(
        read_pairs(
            numbered(open_source(flags.data), flags.data),
            image_size=model.image_tokenizer.image_size,
            group_of=lambda sample: Path(sample.key).parent.name,
        ),
        flags.most,
    )
    drawn = replace(real, images=_drawn(model, real, seed=flags.seed, guidance=flags.guidance))
    other = shuffle_within(real.groups, seed=0)
    shuffled = replace(drawn, captions=tuple(real.captions[i] for i in other))
    rows = {"generated": drawn, "captions shuffled": shuffled, "real pictures": real}
    found = {name: _found(clip, pairs) for name, pairs in rows.items()}
    found["chance"] = _chance(real.groups)
    print(f"{len(real.captions)} prompts in {len(set(real.groups))} groups, by {flags.clip}")
    for name, shares in found.items():
        print(f"  {name:18}" + "  ".join(f"{what} {value:.4f}" for what, value in shares.items()))
    if flags.json:
        flags.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _some(pairs: Pairs, most: int | None) -> Pairs:
    """The first ones of each group."""
    counts: dict[str, int] = {}
    kept = []
    for index, group in enumerate(pairs.groups):
        counts[group] = counts.get(group, 0) + 1
        if most is None or counts[group] <= most:
            kept.append(index)
    return Pairs(
        images=pairs.images[kept],
        captions=tuple(pairs.captions[i] for i in kept),
        groups=tuple(pairs.groups[i] for i in kept),
    )


def _drawn(
    model: dalle.Pipeline, pairs: Pairs, *, seed: int, guidance: float | None
) -> Float[Tensor, "n 3 height width"]:
    """One picture of each caption, picture i with the seed `seed + i`."""
    request = dalle.Request(seed=seed, guidance=guidance, rank_by="log_prob", launch=64)
    seeds = [seed + i for i in range(len(pairs.captions))]
    results = model.generate_each(pairs.captions, request, seeds=seeds)
    pixels = np.stack([np.asarray(pictures[0].image) for pictures in results])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255


@torch.no_grad()
def _found(clip: JointEmbedder, pairs: Pairs) -> dict[str, float]:
    """Shares of the captions whose picture comes first, among the first five, and where it comes
    on average: 0 is first, 1 last."""
    images = torch.cat([clip.encode_images(part) for part in pairs.images.split(64)])
    similar = clip.encode_texts(list(pairs.captions)) @ images.T
    same = torch.tensor([[a == b for b in pairs.groups] for a in pairs.groups])
    own = similar.diagonal().unsqueeze(1)
    ahead = ((similar > own) & same).sum(dim=1)
    among = (ahead / (same.sum(dim=1) - 1).clamp(min=1)).float()
    return {
        "first": (ahead == 0).float().mean().item(),
        "first five": (ahead < 5).float().mean().item(),
        "place": among.mean().item(),
        "place s.e.": among.std().item() / len(among) ** 0.5,
    }


def _chance(groups: tuple[str, ...]) -> dict[str, float]:
    sizes = torch.tensor([groups.count(group) for group in groups]).float()
    return {
        "first": (1 / sizes).mean().item(),
        "first five": (5 / sizes).clamp(max=1).mean().item(),
        "place": 0.5,
    }


if __name__ == "__main__":
    main()
