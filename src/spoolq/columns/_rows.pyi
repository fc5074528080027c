from spoolq.columns.rows_plain import RowBuffer as RowBuffer  # same names and signatures, but `tables`
