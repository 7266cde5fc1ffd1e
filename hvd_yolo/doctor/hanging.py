"""What can be said of ranks that do not meet, by each on its own."""

import socket

from hvd_yolo.comm import launch
from hvd_yolo.comm.meeting import launched_local_rank, meeting_places
from hvd_yolo.doctor.findings import Finding
from hvd_yolo.doctor.interfaces import leads_to, own_interfaces
from hvd_yolo.doctor.routes import flags_for


def hung(what: str, seconds: float, slow: str) -> Finding:
    """The finding of rank 0. slow: what may just need longer."""
    here = [f"{face.name} {face.address}" for face in own_interfaces() if not face.is_loopback]
    name = {who: flag for who, flag in flags_for("NAME").items() if who != "Gloo"}
    return Finding(
        "error", "hung",
        f"{what} within {seconds:g} s; {socket.gethostname()} has the interfaces "
        f"{', '.join(here) or 'none'}",
        "name the one that leads to the other hosts: "
        + ", ".join(f"{who} {flag}" for who, flag in name.items())
        + f"; and open all TCP ports between the hosts; or --timeout N if {slow}",
    )  # fmt: skip


def way_to_the_launcher() -> str:
    """Which interface of this host leads to that of the launcher, empty where they are one host,
    where it is not known, or for others than the first rank of the host."""
    own = [face for face in own_interfaces() if not face.is_loopback]
    # An address that several hosts have tells nothing.
    places = [place for place in meeting_places() if place[0] not in {f.address for f in own}]
    if launched_local_rank() != 0 or not places:
        return ""
    names = [face.name for face in own if any(leads_to(face.address, *p) for p in places)]
    rank = f"rank {launch.launched_rank()} on {socket.gethostname()}"
    if not names:
        return f"hung: {rank} does not reach the launcher's host at {places}"
    return f"hung: {rank} reaches the launcher's host through {', '.join(names)}: " + ", ".join(
        f"{who} {flag}" for who, flag in flags_for(names[0]).items()
    )
