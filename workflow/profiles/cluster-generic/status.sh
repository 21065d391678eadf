#!/bin/sh
# Print what Snakemake asks of a job: running, success or failed. usage: status.sh JOB
state=$(squeue --noheader --states=all --jobs="$1" --format=%T 2>&1)
case $state in
    # SLURM has forgotten it: accounting, where there is any, has not
    *"Invalid job id"* | "") state=$(sacct -n -X -P -j "$1" -o State 2>/dev/null | head -n 1) ;;
esac
case $state in
    COMPLETED) echo success ;;
    BOOT_FAIL | CANCELLED* | DEADLINE | FAILED | NODE_FAIL | OUT_OF_MEMORY | PREEMPTED | TIMEOUT | "")
        echo failed ;;
    # waiting, running, being ended or requeued; or SLURM does not answer now
    *) echo running ;;
esac
