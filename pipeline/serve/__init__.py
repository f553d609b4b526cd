"""The HTTP service and its page: a published snapshot, searched over the network. It reads; it publishes nothing."""
