"""``python -m proofs``."""

import sys

from proofs.command import main

sys.exit(main())
