"""`python -m workermand`."""

import sys

from workermand.cli import main

if __name__ == "__main__":
    sys.exit(main())
