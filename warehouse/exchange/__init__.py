"""What leaves the warehouse and what is read into it: publications, labels, invoices, erasure."""
