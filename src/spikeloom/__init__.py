"""spikeloom: train spiking neural networks in PyTorch."""
