"""Judge a trained DALL·E on captioned pictures it has not seen, beside controls and chance.

    python benchmarks/captioned.py MODEL DATA [--json FILE]

DATA is a folder of pictures with captions; pictures of one subfolder form a group, and captions
are shuffled and retrieved within groups only. First captions are used.
"""

import argparse
import json
from pathlib import Path

import dalle
from dalle.config import to_json
from dalle.data.sources import numbered, open_source
from dalle.evaluation.captioned import caption_use, read_pairs, reconstruction, retrieval
from dalle.sampling.rerank import ClipReranker


def main() -> None:
    """Print a table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    model = dalle.load(flags.model, device="cpu")
    if not isinstance(model.model, dalle.Dalle):
        raise SystemExit("only a DALL·E of ours can be judged")
    pairs = read_pairs(
        numbered(open_source(flags.data), flags.data),
        image_size=model.image_tokenizer.image_size,
        group_of=lambda sample: Path(sample.key).parent.name,
    )
    print(f"{len(pairs.captions)} pictures in {len(set(pairs.groups))} groups")
    use = caption_use(model.model, model.text_tokenizer, model.image_tokenizer, pairs)
    print("\nnats per image token (standard error over pictures)")
    for name in ("true", "shuffled", "none", "gain"):
        value = getattr(use, name)
        print(f"  {name:10} {value.mean:8.4f} ({value.error:.4f})")
    print(f"  {'uniform':10} {use.uniform:8.4f}")
    pixels = reconstruction(model.image_tokenizer, pairs)
    book = pixels.codebook
    print(
        f"\nPSNR {pixels.psnr.mean:.2f} dB ({pixels.psnr.error:.2f}); "
        f"one flat colour {pixels.mean_colour_psnr.mean:.2f} dB"
    )
    print(
        f"codes used {book.codes_used} ({100 * book.usage:.1f} %), perplexity {book.perplexity:.1f}"
    )
    report = {"caption_use": to_json(use), "reconstruction": to_json(pixels)}
    if isinstance(model.reranker, ClipReranker) and isinstance(model.reranker.clip, dalle.Clip):
        found = retrieval(model.reranker.clip, model.reranker.tokenizer, pairs)
        print(
            f"\nretrieval within the group, top-1: text to image "
            f"{100 * found.text_to_image.mean:.1f} % ({100 * found.text_to_image.error:.1f}), "
            f"image to text {100 * found.image_to_text.mean:.1f} %, "
            f"chance {100 * found.chance:.2f} %"
        )
        report["retrieval"] = to_json(found)
    if flags.json:
        flags.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
