"""`python -m hvd_yolo.launch --hosts node1:8,node2:8 -- train --data coco.yaml ...`: the right line
of horovodrun, mpirun or srun for this site, printed and run."""

import importlib.util
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from hvd_yolo import cli
from hvd_yolo.comm import engine
from hvd_yolo.config import parse
from hvd_yolo.config.launch_verb import LaunchConfig
from hvd_yolo.doctor.routes import Host, common_names, common_networks
from hvd_yolo.errors import InputError
from hvd_yolo.launch import hostfile, lines
from hvd_yolo.launch.asking import HostsDown, Ssh, ask
from hvd_yolo.launch.hostfile import Slots

_FLAGS = ("--slurm", "--dry_run")


def main(argv: Sequence[str]) -> None:
    """Becomes the launcher, with its exit code; 1 where hosts are down, for a supervisor to try
    again."""
    argv = list(argv)
    if "--" not in argv and not {"-h", "--help"} & set(argv):
        raise InputError(
            "name what to run after --: hvd_yolo.launch --hosts node1:8,node2:8 -- train --data ..."
        )
    place = argv.index("--") if "--" in argv else len(argv)
    own = [f"{word}=true" if word in _FLAGS else word for word in argv[:place]]
    config = parse(LaunchConfig, own, "hvd_yolo.launch")
    try:
        line = _line(config, _ranks(argv[place + 1 :]))
    except HostsDown as error:
        print(f"hvd_yolo.launch: {error}", file=sys.stderr)
        sys.exit(1)
    print(shlex.join(line), flush=True)
    if not config.dry_run:
        os.execvp(line[0], line)


def _ranks(words: list[str]) -> list[str]:
    """What each rank runs."""
    is_verb = words and words[0].isidentifier()
    if not is_verb or importlib.util.find_spec(f"hvd_yolo.{words[0]}") is None:
        named = f"there is no verb {words[0]}" if words else "no verb is named after --"
        raise InputError(f"{named}: train, evaluate, predict, doctor, data")
    return [sys.executable, "-m", f"hvd_yolo.{words[0]}", *words[1:]]


def _line(config: LaunchConfig, ranks: list[str]) -> list[str]:
    if config.slurm or config.launcher == "srun":
        return _in_slurm(config, ranks)
    slots = hostfile.first(*_slots(config))
    ssh = Ssh(config.ssh_port, config.ssh_identity)
    if config.local:
        interfaces = {"horovodrun": config.interface, "mpirun": config.interface}
    else:
        interfaces = _joined(slots, ssh, config)
    launcher = config.launcher
    if launcher == "auto":
        launcher = _choose(interfaces, sum(count for _, count in slots))
    if launcher not in interfaces:
        raise InputError(
            "horovodrun takes an interface by its name, and the hosts have none in common that "
            "joins them: take --launcher mpirun, or give the interfaces one name (ip link set dev "
            "NAME name lan0)"
        )
    return getattr(lines, launcher)(slots, ranks, interfaces[launcher], ssh)


def _choose(interfaces: dict[str, str], num_ranks: int) -> str:
    """horovodrun where the hosts let it, mpirun elsewhere and for many ranks; says why."""
    if "horovodrun" not in interfaces:
        return "mpirun"
    if num_ranks < lines.MANY_RANKS:
        return "horovodrun"
    pairs = f"Gloo connects all {num_ranks * (num_ranks - 1) // 2:,} pairs of {num_ranks} ranks"
    if lines.is_installed("mpirun") and engine.has_mpi():
        by_slurm = "; in this Slurm allocation, --slurm does it by srun" * lines.is_in_slurm()
        print(f"launcher: mpirun, for {pairs} at start{by_slurm}", file=sys.stderr)
        return "mpirun"
    print(
        f"launcher: horovodrun, whose start takes long, for {pairs}: mpirun (apt-get install "
        "openmpi-bin libopenmpi-dev, then make setup) or srun (--slurm) is faster",
        file=sys.stderr,
    )
    return "horovodrun"


def _in_slurm(config: LaunchConfig, ranks: list[str]) -> list[str]:
    if not lines.is_in_slurm():
        raise InputError(
            "--slurm, but this is in no Slurm allocation: salloc --nodes=2 --ntasks-per-node=8 "
            "--gpus-per-node=8 first, or sbatch hostfiles/slurm/train.sbatch"
        )
    if config.launcher == "horovodrun" or config.hosts or config.hostfile or config.local:
        raise InputError(
            "--slurm starts the allocation's own tasks by srun or mpirun: leave --launcher "
            "horovodrun, --hosts, --hostfile and --local out"
        )
    if config.launcher == "mpirun" or (config.launcher == "auto" and not lines.srun_knows_pmix()):
        return lines.mpirun([], ranks, config.interface, Ssh(0, ""), config.np)
    return lines.srun(config.np, ranks)


def _slots(config: LaunchConfig) -> tuple[list[Slots], int, str]:
    """The hosts that are named, how many ranks, and where they are named."""
    said = [bool(config.hosts), bool(config.hostfile), bool(config.local)]
    if sum(said) != 1:
        raise InputError("name the hosts by one of --hosts, --hostfile, --local and --slurm")
    if config.hosts:
        return hostfile.parse(config.hosts), config.np, "--hosts"
    if config.hostfile:
        return hostfile.read(Path(config.hostfile)), config.np, config.hostfile
    return [Slots("localhost", config.local)], config.np, "--local"


def _joined(slots: list[Slots], ssh: Ssh, config: LaunchConfig) -> dict[str, str]:
    """By launcher, the interface or network that joins the hosts, empty for a single one; only the
    launchers that can take it. Says what was found."""
    found, reached = ask(slots, ssh, config.wait)
    hosts = [
        Host(place, one.interfaces, there, {})
        for place, (one, there) in enumerate(zip(found, reached, strict=True))
    ]
    names = [*(host for host, _ in slots), "this machine"]
    told = ", ".join(f"{host} ({count} rank{'s' * (count > 1)})" for host, count in slots)
    wanted = config.interface
    if len(hosts) == 1:
        print(f"hosts: {told}", file=sys.stderr)
        return {"horovodrun": wanted, "mpirun": wanted}
    by_name, by_network = common_names(hosts), common_networks(hosts)
    if wanted:
        _refuse_interface(wanted, names, hosts, by_name)
        by_name = [wanted]
    if not (by_name or by_network):
        raise InputError(_unjoined(names, hosts))
    joined = by_name[0] if by_name else by_network[0]
    print(f"hosts: {told}, joined by {joined}", file=sys.stderr)
    return {"horovodrun": joined, "mpirun": joined} if by_name else {"mpirun": joined}


def _refuse_interface(wanted: str, names: list[str], hosts: list[Host], good: list[str]) -> None:
    if wanted in good:
        return
    absent = [
        names[host.rank] for host in hosts if wanted not in {face.name for face in host.interfaces}
    ]
    fault = f"is not on {', '.join(absent)}" if absent else "does not lead from host to host"
    remedy = f"--interface {good[0]} does" if good else "leave --interface out, and all are tried"
    raise InputError(f"--interface {wanted} {fault}: {remedy}")


def _unjoined(names: list[str], hosts: list[Host]) -> str:
    told = "\n  ".join(
        f"{names[host.rank]}: "
        + (
            ", ".join(f"{f.name} {f.address}" for f in host.interfaces if not f.is_loopback)
            or "none"
        )
        for host in hosts
    )
    return (
        "ssh reaches the hosts, but they have no interface by which each reaches every other; open "
        f"all TCP ports between them (firewall, security group), or see `ip addr`:\n  {told}"
    )


if __name__ == "__main__":
    cli.run(main)
