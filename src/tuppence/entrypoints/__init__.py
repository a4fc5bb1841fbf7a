"""Where programs start: the command line."""
