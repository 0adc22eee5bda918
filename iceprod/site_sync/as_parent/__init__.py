"""Lending tasks to children, and taking in what they report."""
