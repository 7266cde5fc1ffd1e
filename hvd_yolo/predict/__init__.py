"""Detection with a trained model on pictures, videos and streams: what it writes, and where."""
