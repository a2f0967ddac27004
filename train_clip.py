"""Train a CLIP: the same as `dalle train clip`."""

import sys

from dalle.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "clip", *sys.argv[1:]]))
