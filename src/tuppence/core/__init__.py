"""The vocabulary that all features share: pure values and rules, no input or output."""
