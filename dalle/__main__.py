"""`python -m dalle`: the `dalle` command."""

import sys

from dalle.cli import main

sys.exit(main())
