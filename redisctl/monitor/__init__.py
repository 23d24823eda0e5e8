"""What an instance does now: health, stats, latency, memory."""
