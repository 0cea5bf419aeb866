"""Makes the generator importable: it lives beside the model it trains, in no package that is installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "assets"))
