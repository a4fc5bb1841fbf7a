"""Governed calls: who pays, what it may cost, whether there is room, the call, what it did cost."""
