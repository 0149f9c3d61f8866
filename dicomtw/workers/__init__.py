"""Several processes that are one server: they share its listeners, its stores, its indexes and its limits.

The process that twistd has started opens the ports, prepares the stores, and is forked as often as there are
to be workers; before each fork it is as it was before the first one, with no thread and no connection, so a
worker that has died is replaced by another fork. What the workers have to know of each other stands on a
`board` in memory that they share.
"""
