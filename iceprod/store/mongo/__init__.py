"""The store in MongoDB, which several server processes may share.

Nothing here but `MongoStore` is for other rooms.
"""
