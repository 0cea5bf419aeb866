"""`python -m moe_mlx` is the moe-mlx command."""

import sys

from moe_mlx.cli import main

sys.exit(main())
