#!/bin/bash
# A throw-away SLURM cluster in namespaces of its own: a control host ctl (10.77.0.1) and nodes n1, n2, ...
# (10.77.0.11, ...), each with its own network, host name and /dev/shm, joined by a bridge; files are
# shared. Two GPUs per node are devices without a driver. Jobs in the partition urgent preempt the others.
# usage: cluster.sh DIR NODES     runs until its process 1 is killed; DIR/run/ready appears when all
# nodes are idle. Every cluster needs a DIR of its own: sockets and spool are there.
set -eu
if [ "${1:-}" != --inside ]; then
    dir=$(realpath -m "$1")
    rm -rf "$dir"
    mkdir -p "$dir"/{etc/slurm,log,state,spool,run}
    exec unshare -mnu --propagation private -pf --kill-child "$0" --inside "$dir" "$2"
fi
dir=$2 nodes=$3

mount -t proc proc /proc
hostname ctl
ip link set lo up
ip link add br0 type bridge
ip addr add 10.77.0.1/24 dev br0
ip link set br0 up
{
    echo "127.0.0.1 localhost"
    echo "10.77.0.1 ctl"
    for i in $(seq "$nodes"); do echo "10.77.0.$((10 + i)) n$i"; done
} >"$dir/etc/hosts"
mount --bind "$dir/etc/hosts" /etc/hosts
head -c 128 /dev/urandom >"$dir/etc/munge.key"
chmod 400 "$dir/etc/munge.key"
# a disk too small for a checkpoint, which all nodes see
mkdir "$dir/full"
mount -t tmpfs -o size=1m full "$dir/full"
for gpu in 0 1; do mknod "$dir/run/nvidia$gpu" c 1 3; done

# cred_expire is also the time that a requeued job waits before it starts again: 120 s elsewhere
cat >"$dir/etc/slurm/slurm.conf" <<END
ClusterName=mini
SlurmctldHost=ctl(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket=$dir/run/munge.sock,cred_expire=${CRED_EXPIRE:-10}
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc=$dir/log/jobcomp.log
MinJobAge=3600
KillWait=${KILLWAIT:-30}
SlurmdTimeout=${SLURMDTIMEOUT:-300}
GresTypes=gpu
NodeName=n[1-$nodes] CPUs=16 RealMemory=128000 Gres=gpu:2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE DefMemPerCPU=100
PartitionName=urgent Nodes=ALL PriorityTier=2 MaxTime=INFINITE DefMemPerCPU=100
END
echo "NodeName=n[1-$nodes] Name=gpu File=$dir/run/nvidia[0-1]" >"$dir/etc/slurm/gres.conf"
mkdir -p /etc/slurm
mount --bind "$dir/etc/slurm" /etc/slurm

munged --force --socket="$dir/run/munge.sock" --key-file="$dir/etc/munge.key" \
    --pid-file="$dir/run/munged.pid" --log-file="$dir/log/munged.log" --seed-file="$dir/run/munged.seed"
slurmctld
for i in $(seq "$nodes"); do
    ip link add "v$i" type veth peer name eth0 address "02:00:00:00:00:0$i"
    ip link set "v$i" master br0 up
    mkdir -p "$dir/spool/n$i"
    # a node stays off as long as the file hold.n$i is there
    unshare -mnu --propagation private bash -c "
        hostname n$i
        ip link set lo up
        mount -t tmpfs -o size=2g shm /dev/shm
        echo \$\$ >'$dir/run/node.n$i.pid'
        while ! ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
        ip addr add 10.77.0.$((10 + i))/24 dev eth0
        ip link set eth0 up
        while :; do
            slurmd -D -N n$i
            sleep 1
            while [ -e '$dir/run/hold.n$i' ]; do sleep 0.2; done
        done" &
    while ! [ -s "$dir/run/node.n$i.pid" ]; do sleep 0.02; done
    ip link set eth0 netns "$(cat "$dir/run/node.n$i.pid")"
done
for _ in $(seq 400); do
    if [ "$(sinfo -h -p debug -t idle -o %D 2>/dev/null || true)" = "$nodes" ]; then
        touch "$dir/run/ready"
        break
    fi
    sleep 0.05
done
# Process 1 has to reap its children, or SLURM says "Kill task failed" and drains the node.
while :; do
    sleep 1000 &
    wait $! || true
done
