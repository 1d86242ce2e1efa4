"""Workers that are paid by the second."""
