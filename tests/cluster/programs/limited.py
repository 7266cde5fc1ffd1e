"""limited.py RANK MEGABYTES MODULE ARGUMENTS...: runs a module, on one rank with a limit on its
memory."""

import os
import resource
import runpy
import sys

rank, megabytes, module = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if int(os.environ.get("OMPI_COMM_WORLD_RANK", "0")) == rank:
    # After the libraries, whose address space differs from one build to the next.
    import hvd_yolo.train  # noqa: F401

    pages = int(open("/proc/self/statm").read().split()[0])  # noqa: SIM115
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # A module that is run may not be imported already.
    sys.modules.pop(module, None)
sys.argv = [module, *sys.argv[4:]]
runpy.run_module(module, run_name="__main__", alter_sys=True)
