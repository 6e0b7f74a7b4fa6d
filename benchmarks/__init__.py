"""spikeloom beside its peers, on the same work and the same machine: `make bench`."""
