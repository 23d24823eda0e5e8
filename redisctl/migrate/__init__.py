"""Migration of the data of another Redis to this instance."""
