"""Pictures from prompts: the same as `dalle generate`."""

import sys

from dalle.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
