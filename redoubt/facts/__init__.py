"""Facts: each inspects a host with one SSH command."""
