"""The launcher's line for a list of hosts: looked at over ssh, printed, and run."""
