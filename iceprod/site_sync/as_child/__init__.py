"""Running tasks of parents, and telling what becomes of them."""
