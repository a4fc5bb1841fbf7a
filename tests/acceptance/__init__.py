"""What users do, as they do it."""
