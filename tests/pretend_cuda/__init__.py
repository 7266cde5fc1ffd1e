"""A pretend CUDA device for a CPU build of torch; see README.md."""
