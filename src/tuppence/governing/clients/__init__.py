"""Governed clients of providers' own packages: the same client, with every call governed."""
