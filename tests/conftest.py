"""For every test: nothing is remembered in the home folder of whoever runs them."""

import os

os.environ["MOE_MLX_HISTORY"] = "off"
