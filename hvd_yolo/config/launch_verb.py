"""The options of `python -m hvd_yolo.launch`."""

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt


@dataclass
class LaunchConfig:
    """Look at the hosts, print the launcher's line for the verb named after --, and run it.

    Args:
        hosts: the hosts and the ranks of each: node1:8,node2:8, or node[1-2]:8.
        hostfile: the same in a file, `node1 slots=8` or `node1:8` a line, or the node file of PBS,
            OAR, LSF or the Grid Engine; the slots of a host that is listed again add up.
        local: so many ranks on this machine.
        slurm: the tasks of the Slurm allocation that this is started in.
        np: ranks; 0 for all slots of the hosts.
        launcher: who starts the ranks; auto is srun in Slurm, and else horovodrun over Gloo where
            the hosts have an interface of one name, mpirun where only the network is the same, and
            from 64 ranks, which it connects faster.
        interface: the network interface to take, found by trying all where it is left out.
        ssh_port: of the hosts' ssh servers; 0 for what ~/.ssh/config says.
        ssh_identity: file of the private key; empty for what ~/.ssh/config says.
        wait: seconds to wait for hosts that do not answer yet, as containers that are starting.
        dry_run: print the line, and do not run it.
    """

    hosts: str = ""
    hostfile: str = ""
    local: NonNegativeInt = 0
    slurm: bool = False
    np: NonNegativeInt = 0
    launcher: Literal["auto", "horovodrun", "mpirun", "srun"] = "auto"
    interface: str = ""
    ssh_port: NonNegativeInt = 0
    ssh_identity: str = ""
    wait: NonNegativeFloat = 0.0
    dry_run: bool = False
