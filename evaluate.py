"""How good a model is, in numbers: the same as `dalle evaluate`."""

import sys

from dalle.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
