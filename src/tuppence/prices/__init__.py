"""Where prices come from: the public list with our corrections, and the user's contracts."""
