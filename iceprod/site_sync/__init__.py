"""Sites that share work: a parent lends tasks, its children run them and report.

The messages are in `messages`.  As a parent: `lending` hands tasks out and takes them back,
`inbox` takes in what children report, `registry` knows who they are.  As a child: `taking`
fetches tasks and makes them tasks of this site, `outbox` writes down what is to be told,
`sender` tells it, `listening` hears what the parent has changed.  See docs/explanation/federation.md.
"""
