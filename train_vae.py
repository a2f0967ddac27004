"""Train a discrete VAE: the same as `dalle train vae`."""

import sys

from dalle.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "vae", *sys.argv[1:]]))
