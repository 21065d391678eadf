#!/bin/sh
# Run a training command in a SLURM job, and put the same job back into the queue when it was
# stopped or has crashed: the trainer resumes from its newest checkpoint. Snakemake only sees the
# job wait. Outside of SLURM nothing is added to the command.
#
# usage: launch.sh CHECKPOINTS COMMAND...
set -u
checkpoints=$1
shift

begun() {
    cat "$checkpoints/attempts.jsonl" 2>/dev/null | grep -c '"started"'
}

before=$(begun)
trap : TERM INT USR1 # the command gets it too, saves and ends; then this shell goes on
"$@"
status=$?

[ -n "${SLURM_JOB_ID:-}" ] || exit "$status"
case $status in
    0 | 2 | 78) exit "$status" ;; # done; wrong input; stopped for good
    75) ;;                        # stopped as asked, everything saved
    # A crash. The trainer counts its attempts and gives up; before its first there is no guard.
    *) [ "$(begun)" -gt "$before" ] || exit "$status" ;;
esac
case $(squeue --noheader --jobs="$SLURM_JOB_ID" --format='%T %r') in
    RUNNING* | *" TimeLimit") ;;
    *) exit "$status" ;; # SLURM ends it because of a scancel, or requeues it already
esac
echo "launch.sh: status $status; SLURM job $SLURM_JOB_ID goes back into the queue" >&2
scontrol requeue "$SLURM_JOB_ID" && sleep 60 # SLURM ends it within seconds
exit "$status"
