#!/bin/bash
# What a container of hvd_yolo does:
#
#   train OPTIONS...      one process; --data and so on as ever
#   worker                an ssh server, through which a launcher starts ranks here
#   launch OPTIONS...     python -m hvd_yolo.launch: waits for the hosts to answer, then starts the ranks on them
#   health                whether the ssh server of a worker answers, for HEALTHCHECK
#   anything else         that command: horovodrun, mpirun, bash, ...
#
# All containers of a job need one ssh key. It comes from the folder HVD_YOLO_SSH (default /run/secrets/ssh), which holds
# a private key (id_ed25519, id_rsa or ssh-privatekey) that user 1000 can read, and maybe authorized_keys; else their modes
# do not matter, for they are copied. A folder that is empty and may be written gets a new key: a volume of the job's own,
# say. Host keys are made at each start. HVD_YOLO_SSH_PORT (2222): the port of all workers.
set -euo pipefail

keys=${HVD_YOLO_SSH:-/run/secrets/ssh}
port=${HVD_YOLO_SSH_PORT:-2222}

say() { echo "entrypoint: $*" >&2; }
refuse() { echo "hvd_yolo: error: $*" >&2; exit 2; }
answers() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

private_key() {
  local name
  for name in id_ed25519 id_rsa ssh-privatekey; do
    if [ -e "$keys/$name" ]; then echo "$keys/$name"; return; fi
  done
}

# ~/.ssh with the modes that ssh wants.
prepare_ssh() {
  [ -d "$keys" ] || refuse "no ssh key: mount a folder with id_ed25519 and id_ed25519.pub at $keys, or name it by" \
    "HVD_YOLO_SSH (ssh-keygen -t ed25519 -N '' -f id_ed25519 makes them)"
  { [ -r "$keys" ] && [ -x "$keys" ]; } || refuse "$keys cannot be read by user $(id -un) (uid $(id -u)): chmod 755 it"
  if [ -z "$(private_key)" ]; then make_key; fi
  local key; key=$(private_key)
  [ -r "$key" ] || refuse "$key cannot be read by user $(id -un) (uid $(id -u)): give it to that user or its group" \
    "(in Kubernetes fsGroup: $(id -g))"
  install -d -m 700 ~/.ssh
  install -m 600 "$key" ~/.ssh/id
  if [ -e "$keys/authorized_keys" ]; then
    install -m 600 "$keys/authorized_keys" ~/.ssh/authorized_keys
  else
    ssh-keygen -y -f ~/.ssh/id >~/.ssh/authorized_keys || refuse "$key is no private key without a passphrase"
    chmod 600 ~/.ssh/authorized_keys
  fi
  # Host keys are as old as their container, so a name may have another one tomorrow.
  cat >~/.ssh/config <<CONFIG
Host *
  Port $port
  IdentityFile ~/.ssh/id
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
  ServerAliveInterval 5
  ServerAliveCountMax 2
CONFIG
  chmod 600 ~/.ssh/config
}

# Other roles than worker may do without: a job on one machine, say.
may_prepare_ssh() { [ -d "$keys" ] && [ -w ~ ] && { [ -w "$keys" ] || [ -n "$(private_key)" ]; }; }

# The first of the containers that share the folder makes it, the others wait for it.
make_key() {
  local made=$keys/id_ed25519
  if mkdir "$keys/.making" 2>/dev/null; then
    ssh-keygen -q -t ed25519 -N '' -C hvd_yolo -f "$keys/.making/key"
    mv "$keys/.making/key.pub" "$made.pub"
    mv "$keys/.making/key" "$made"
    say "made an ssh key in $keys"
  elif [ ! -d "$keys/.making" ]; then
    refuse "$keys holds no id_ed25519, id_rsa or ssh-privatekey, and user $(id -un) may not write one there"
  fi
  for _ in $(seq 100); do
    if [ -e "$made" ]; then return; fi
    sleep 0.1
  done
  refuse "$keys/.making is there, but no key has come of it: remove it"
}

worker() {
  prepare_ssh
  if answers 127.0.0.1 "$port"; then
    refuse "port $port is in use on $(hostname): another worker or an ssh server has it (with the host's network, say);" \
      "choose another by HVD_YOLO_SSH_PORT, the same for all containers of the job"
  fi
  local own=~/.ssh/server
  install -d -m 700 $own
  [ -e $own/host ] || ssh-keygen -q -t ed25519 -N '' -f $own/host
  cat >$own/sshd_config <<CONFIG
Port $port
HostKey $own/host
PidFile none
AuthorizedKeysFile .ssh/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
MaxStartups 200
MaxSessions 200
SetEnv PATH=$PATH
CONFIG
  say "worker $(hostname), ssh on port $port"
  exec /usr/sbin/sshd -D -e -f $own/sshd_config
}

role=${1:-train}
case $role in
  train) shift || true; exec python -m hvd_yolo.train "$@" ;;
  worker) worker ;;
  launch) shift; if may_prepare_ssh; then prepare_ssh; fi; exec python -m hvd_yolo.launch "$@" ;;
  health) [ ! -e ~/.ssh/server ] || answers 127.0.0.1 "$port" ;;
  *) if may_prepare_ssh; then prepare_ssh; fi; exec "$@" ;;
esac
