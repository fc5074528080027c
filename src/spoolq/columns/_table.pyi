class Table:
    """See `_table.pxd`; nothing of it is for Python."""
