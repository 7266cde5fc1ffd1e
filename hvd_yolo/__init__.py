"""hvd_yolo: trains torch detectors on any number of machines with Horovod."""
