#!/bin/bash
# Several hosts on one Linux machine, for tests and benchmarks; root, iproute2 and openssh-server needed.
#
# Each node has its own network, UTS, mount, IPC and PID namespace, /etc/hosts, /dev/shm, /var/tmp and sshd; the other
# files are shared, as over NFS. A bridge in a namespace of its own joins them; nothing reaches the machine's network.
#
#   netlab.sh up [N]            make the bridge and N nodes, node1 .. nodeN
#   netlab.sh down              remove all of it
#   netlab.sh exec NODE CMD...  run CMD in NODE
#   netlab.sh kill NODE         power-off: link down first (no FIN or RST leaves), then the node's processes
#   netlab.sh boot NODE         start the node again
#   netlab.sh link NODE up|down plug or pull the cable
#   netlab.sh rate NODE RATE    limit both directions, e.g. 100mbit; "off" lifts it
#
# NETLAB: the folder of its files. NETLAB_PREFIX: the beginning of its namespaces' names, to have two labs at once.
set -eu
L=${NETLAB:-${TMPDIR:-/tmp}/hvd_yolo_netlab}; SUB=${NETLAB_SUBNET:-10.77.0}; P=${NETLAB_PREFIX:-hy}
SW=${P}sw; PORT=22
nodes() { ls "$L/nodes" 2>/dev/null || true; }
idx() { cat "$L/nodes/$1/idx"; }
pidof_() { cat "$L/nodes/$1/pid"; }
case ${1:?} in
up)
  N=${2:-2}; mkdir -p "$L/nodes" "$L/ssh"; chmod 700 "$L/ssh"
  [ -f $L/ssh/id ] || ssh-keygen -q -t ed25519 -N '' -f $L/ssh/id
  [ -f $L/ssh/host ] || ssh-keygen -q -t ed25519 -N '' -f $L/ssh/host
  cp $L/ssh/id.pub $L/ssh/authorized_keys; chmod 600 $L/ssh/authorized_keys
  { echo "127.0.0.1 localhost"; for i in $(seq $N); do echo "$SUB.$((10+i)) node$i"; done; } > $L/hosts
  { for i in $(seq $N); do echo "node$i,$SUB.$((10+i)) $(cut -d' ' -f1,2 $L/ssh/host.pub)"; done; } > $L/ssh/known_hosts
  cat > $L/ssh_config <<X
Host *
  IdentityFile $L/ssh/id
  UserKnownHostsFile $L/ssh/known_hosts
  StrictHostKeyChecking yes
  ConnectTimeout 5
  ServerAliveInterval 5
  ServerAliveCountMax 2
X
  cat > $L/sshd_config <<X
Port $PORT
HostKey $L/ssh/host
AuthorizedKeysFile $L/ssh/authorized_keys
PermitRootLogin yes
PasswordAuthentication no
UsePAM no
UseDNS no
StrictModes no
PidFile none
PermitUserEnvironment no
MaxStartups 100
MaxSessions 100
X
  cat > $L/nodeinit.sh <<'X'
n=$1; L=$2; d=$L/nodes/$n
hostname $n
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /dev/shm; mount -t tmpfs tmpfs /var/tmp   # /var/tmp: node-private scratch (Slurm PMIx dir)
mount --bind $L/hosts /etc/hosts
echo $n > $d/hostname; mount --bind $d/hostname /etc/hostname
mount --bind $L/ssh_config /etc/ssh/ssh_config
mkdir -p /run/sshd
trap 'exit 0' TERM
/usr/sbin/sshd -D -e -f $L/sshd_config & 
touch $d/ready
while :; do wait -n || true; sleep 0.2; done   # pid 1: reap orphans
X
  ip netns add $SW 
  ip -n $SW link add br0 type bridge; ip -n $SW link set br0 up; ip -n $SW link set lo up
  for i in $(seq $N); do n=node$i; mkdir -p $L/nodes/$n; echo $i > $L/nodes/$n/idx
    ip netns add ${P}$n
    ip -n $SW link add v$i type veth peer name eth0 netns ${P}$n
    ip -n $SW link set v$i master br0 up
    ip -n ${P}$n addr add $SUB.$((10+i))/24 dev eth0
    ip -n ${P}$n link set eth0 up; ip -n ${P}$n link set lo up
    rm -f $L/nodes/$n/ready $L/nodes/$n/pid
    $0 boot $n
  done ;;
boot) n=$2; d=$L/nodes/$n; rm -f $d/ready $d/pid
  setsid ip netns exec ${P}$n unshare --uts --mount --ipc --pid --fork --kill-child \
     bash $L/nodeinit.sh $n $L >$d/log 2>&1 </dev/null &
  up=$!; for _ in $(seq 200); do [ -e $d/ready ] && break; sleep 0.05; done
  [ -e $d/ready ] || { echo "$n: no boot"; cat $d/log; exit 1; }
  # pid (outside view) of the pid-ns init: the child of the unshare process
  pgrep -P $up > $d/pid   # $up became unshare (exec chain); its child is pid 1 of the node
  ip -n $SW link set v$(idx $n) up ;;
exec) n=$2; shift 2; exec nsenter -t $(pidof_ $n) -n -u -m -i -p -- "$@" ;;
kill) n=$2; ip -n $SW link set v$(idx $n) down; kill -9 $(pidof_ $n) ;;
link) ip -n $SW link set v$(idx $2) $3 ;;
rate) i=$(idx $2)
  for x in "$SW v$i" "${P}$2 eth0"; do set -- $1 $2 $3 $x
    if [ $3 = off ]; then ip netns exec $4 tc qdisc del dev $5 root || true
    else ip netns exec $4 tc qdisc replace dev $5 root tbf rate $3 burst 128kb latency 100ms; fi; done ;;
down) for n in $(nodes); do [ -s $L/nodes/$n/pid ] && kill -9 $(pidof_ $n) 2>/dev/null || true; done; sleep 0.3
  for n in $(nodes); do ip netns del ${P}$n || true; done; ip netns del $SW || true; rm -rf $L/nodes ;;
esac
