"""Files of tasks that are run for other sites: sent to the parent, and fetched from it."""
