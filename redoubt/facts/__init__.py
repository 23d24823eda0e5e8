"""Facts: what a host answers, in one SSH command each."""
