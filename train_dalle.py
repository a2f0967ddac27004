"""Train a DALL·E: the same as `dalle train dalle`."""

import sys

from dalle.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "dalle", *sys.argv[1:]]))
