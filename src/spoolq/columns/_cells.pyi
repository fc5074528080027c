"""See `_cells.pyx`; nothing of it is for Python."""
