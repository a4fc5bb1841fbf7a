"""The databases: one transaction is one plain function on a `Transaction`."""
