"""How the codec's compiled kernels come to where they run: compiled beforehand, or shipped in an image."""
