"""Search for the best options of training: `python -m hvd_yolo.tune`."""
