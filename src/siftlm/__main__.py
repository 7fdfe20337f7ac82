"""``python -m siftlm`` is the command ``siftlm``."""

import sys

from siftlm.cli import main

if __name__ == "__main__":
    sys.exit(main())
