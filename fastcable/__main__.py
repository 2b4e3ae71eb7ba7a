"""`python -m fastcable` is the command `fastcable`."""

import sys

from fastcable.cli import main

sys.exit(main())
