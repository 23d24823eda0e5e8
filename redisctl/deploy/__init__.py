"""Steps of a deploy on the host, and what starts, stops, recovers and removes an instance."""
