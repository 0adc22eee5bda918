"""Sites that share work: a parent lends tasks, its children run them and report.

The messages are in `messages`.  As a parent: `registry` knows who the children are, `lending`
hands tasks to them, `keeping` renews their leases and tells them of changes, `inbox` takes in
what they report, by the rules in `rulings`.  As a child: `taking` fetches tasks and makes them
tasks of this site, `outbox` writes down what is to be told, `sender` tells it, `listening` hears
what the parent has changed.  See docs/explanation/federation.md.
"""
