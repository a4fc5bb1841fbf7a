"""The gateway: governed calls for clients that can change a base URL."""
