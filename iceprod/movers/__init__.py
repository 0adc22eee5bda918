"""Moving files: the port in `base`, and one adapter per protocol."""
