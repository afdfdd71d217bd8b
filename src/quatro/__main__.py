"""`python -m quatro` is `quatro`."""

import sys

from quatro.cli.main import main

sys.exit(main())
