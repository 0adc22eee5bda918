"""Sites that share work: a parent lends tasks, its children run them and report.

What is said is in `messages`, who there is in `registry`.  `as_parent` lends tasks and takes in what
is reported of them; `as_child` takes tasks, makes them tasks of this site, and tells what becomes of
them; `files` moves what these read and write; `seen` is for people.  `federation` holds it together.
See docs/explanation/federation.md.
"""
