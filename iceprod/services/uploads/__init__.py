"""Files that come in parts, or are announced before they come.

An upload is a folder on the disk, so that it survives the server and any process of the site
can go on with it (`shelf`); `service` is what handlers and methods ask.
"""
