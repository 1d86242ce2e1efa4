"""What leaves the warehouse and comes into it: publications, labels, invoices, erasure."""
