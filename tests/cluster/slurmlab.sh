#!/bin/bash
# Slurm for tests: its controller in node3, its daemons in node1 and node2 of netlab.sh, which must be up.
#
#   slurmlab.sh up|down
#
# SLAB: the folder of its files; its slurm.conf is what sbatch and squeue read (SLURM_CONF). Partition main; jobs of
# partition high take main's nodes, whose jobs get 15 seconds and are queued again.
set -eu
L=${SLAB:-${TMPDIR:-/tmp}/hvd_slurmlab}; N=$(dirname "$(readlink -f "$0")")/netlab.sh; mkdir -p $L/{spool,state,log,munge}; chmod 711 $L $L/munge; chmod 700 $L/munge
munge_up() { [ -f $L/munge/key ] || { dd if=/dev/urandom of=$L/munge/key bs=1 count=1024 status=none; chmod 600 $L/munge/key; }
  chmod 711 $L/munge
  /usr/sbin/munged --force --key-file=$L/munge/key --socket=$L/munge/sock --pid-file=$L/munge/pid --log-file=$L/log/munged.log --seed-file=$L/munge/seed --num-threads=2; }
conf() { cat <<X
ClusterName=lab
SlurmctldHost=$1
SlurmUser=root
SlurmdUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$L/munge/sock,cred_expire=15
CryptoType=crypto/munge
StateSaveLocation=$L/state
SlurmdSpoolDir=$L/spool/%n
SlurmctldPidFile=$L/slurmctld.pid
SlurmdPidFile=$L/slurmd.%n.pid
SlurmctldLogFile=$L/log/slurmctld.log
SlurmdLogFile=$L/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SlurmdTimeout=30
KillWait=10
InactiveLimit=0
MinJobAge=300
SchedulerParameters=batch_sched_delay=0,sched_interval=5,requeue_setup_env_fail
JobRequeue=1
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PropagateResourceLimits=NONE
X
}
# without this slurmd dies in a netns node: "No filesystem mounted on /sys/fs/cgroup" (ip netns exec remounts /sys)
printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\n' > $L/cgroup.conf
printf 'PMIxCliTmpDirBase=/var/tmp\n' > $L/mpi.conf   # node-private dir, else /tmp/spmix_appdir_* collides on a shared /tmp
case $1 in
up) munge_up; { conf "node3"
 cat <<X
NodeName=node[1-2] CPUs=4 Boards=1 SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP PriorityTier=1 GraceTime=15
PartitionName=high Nodes=ALL MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
X
 } > $L/slurm.conf
 $N exec node3 slurmctld -c -f $L/slurm.conf; for n in node1 node2; do mkdir -p $L/spool/$n; $N exec $n slurmd -c -N $n -f $L/slurm.conf; done ;;
down) for n in node1 node2; do $N exec $n sh -c "kill \$(cat $L/slurmd.$n.pid)" || true; done; $N exec node3 sh -c "kill \$(cat $L/slurmctld.pid)" || true; kill $(cat $L/munge/pid) ;;
esac
