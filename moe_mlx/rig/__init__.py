"""Memory and disk limits made real, and random models to run under them."""
