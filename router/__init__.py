"""Pure decisions: values and columns in, values and columns out. Nothing here opens a file, a socket or a clock."""
