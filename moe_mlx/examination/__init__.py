"""The examination of a machine: what it is, what it does, what suits it. Parts in processes of their own."""
