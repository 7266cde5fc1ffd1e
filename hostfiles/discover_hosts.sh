#!/bin/sh
# The hosts that an elastic job may use now, HOST:SLOTS a line. horovodrun calls this every second:
#
#   HVD_YOLO_HOSTS=hosts.txt horovodrun -np 4 --min-np 2 --max-np 8 --network-interface eth0 \
#     --host-discovery-script hostfiles/discover_hosts.sh --blacklist-cooldown-range 10 300 \
#     python -m hvd_yolo.train --global_batch 64 --output runs/elastic ...
#
# HVD_YOLO_HOSTS=FILE  that file, edited while the job runs: `host`, `host:2` or `host slots=2` a line
# in a Slurm job       its nodes that Slurm holds to be up (salloc or sbatch with --no-kill)
# in a Kubernetes pod  what the MPI operator knows (it mounts /etc/mpi/discover_hosts.sh)
#
# HVD_YOLO_SLOTS: ranks of a host for which no number is said; without it those that Slurm tells, or 1.
set -eu

slots=${HVD_YOLO_SLOTS:-${SLURM_GPUS_ON_NODE:-${SLURM_NTASKS_PER_NODE:-1}}}

hosts() {
  if [ -n "${HVD_YOLO_HOSTS:-}" ]; then
    cat "$HVD_YOLO_HOSTS"
  elif [ -n "${SLURM_JOB_NODELIST:-}" ]; then
    nodes=$(sinfo --noheader --all --Node --nodes="$SLURM_JOB_NODELIST" --states=alloc,mix,idle --format=%N)
    printf '%s\n' "$nodes" | sort -u
  elif [ -x /etc/mpi/discover_hosts.sh ]; then
    /etc/mpi/discover_hosts.sh
  else
    echo "discover_hosts.sh: set HVD_YOLO_HOSTS to a file of hosts" >&2
    return 1
  fi
}

# When this fails, horovodrun warns and asks again; no hosts would be the end of all ranks.
listed=$(hosts)
mark=$(printf '\357\273\277')
# Commas may end lines or part hosts; the slots of a host that is listed again add up.
found=$(printf '%s\n' "$listed" |
  sed -e "s/^$mark//" -e 's/#.*//' | tr ',' '\n' |
  sed -e 's/max[_-]slots[[:space:]]*=[[:space:]]*[0-9]*//' -e 's/[[:space:]]*slots[[:space:]]*=/:/' \
    -e 's/[[:space:]]//g' -e '/^$/d' -e "/:/!s/\$/:$slots/" |
  awk -F: '
    NF != 2 || $1 ~ /[^A-Za-z0-9._-]/ || $2 !~ /^[0-9]+$/ { bad = bad " " $0 }
    !($1 in slots) { hosts[++count] = $1 }
    { slots[$1] += $2 }
    END {
      if (bad) {
        print "discover_hosts.sh: no host and its slots:" bad \
          "; write node1:8, and a user into ~/.ssh/config" > "/dev/stderr"
        exit 1
      }
      for (i = 1; i <= count; i++) print hosts[i] ":" slots[hosts[i]]
    }')
[ -n "$found" ]
printf '%s\n' "$found"
