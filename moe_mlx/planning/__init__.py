"""What fits and how fast it will be: from a cap to slots, from headers to a forecast."""
