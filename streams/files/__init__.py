"""Log, catalogue and profile files: formats, columns, rows, order."""
