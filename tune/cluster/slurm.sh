#!/usr/bin/env bash
# A sweep on SLURM. In the repository's root, on a file system all nodes share:
#   sbatch [--nodes=4 --gpus-per-node=1 …] tune/cluster/slurm.sh FOLDER KEY=VALUE…
#SBATCH --job-name=ccsi
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# A lost node: SLURM requeues the job. The time limit: USR1 comes two minutes before it, and we requeue. Either way the
# sweep resumes. TERM (scancel, preemption) ends it; it is not USR1, so that a cancelled job stays cancelled.
set -euo pipefail

python=${PYTHON:-$PWD/.venv/bin/python}
mkdir -p sweeps
private=$(mktemp -d "$PWD/sweeps/.slurm-XXXXXX") # of mode 700, like what lies in it
(umask 077 && "$python" -c 'import secrets; print(secrets.token_hex(32))' >"$private/token")
export python private PYTHON=$python RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$private/token RAY_USAGE_STATS_ENABLED=0

node() { # Ray on one node until it is stopped; the first is the head. No port is fixed: nodes may be shared.
    set -euo pipefail
    temporary=$(mktemp -d /tmp/ccsi-XXXXXX) # of mode 700; what Ray makes inside is open to everybody
    address=$(getent ahostsv4 "$SLURMD_NODENAME" | awk '$1 !~ /^127/ {print $1; exit}')
    port() { "$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }
    if ((SLURM_PROCID == 0)); then
        dashboard=$(port)
        role=(--head --port=0 --ray-client-server-port="$(port)")
        role+=(--include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port="$dashboard")
    else
        until [[ -s $private/address ]]; do sleep 1; done
        role=(--address="$(<"$private/address")")
    fi
    "$python" -m ray.scripts.scripts start --block "${role[@]}" --temp-dir="$temporary/ray" \
        --node-ip-address="${address:-$(hostname -I | awk '{print $1}')}" --dashboard-agent-listen-port=0 \
        --num-cpus="$SLURM_CPUS_PER_TASK" &
    ray=$!
    trap 'kill "$ray" 2>/dev/null || true' TERM INT
    while kill -0 "$ray" 2>/dev/null && [[ ! -s $temporary/ray/ray_current_cluster ]]; do sleep 0.2; done
    if [[ -s $temporary/ray/ray_current_cluster ]]; then
        if ((SLURM_PROCID == 0)); then
            echo "$dashboard" >"$private/dashboard"
            cp "$temporary/ray/ray_current_cluster" "$private/part" && mv "$private/part" "$private/address"
        fi
        touch "$private/up-$SLURM_PROCID"
    fi
    while kill -0 "$ray" 2>/dev/null; do wait "$ray" || true; done # a signal ends `wait` early
    rm -rf "$temporary"
}

srun --nodes="$SLURM_NNODES" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --wait=0 --kill-on-bad-exit=0 \
    bash -c "$(declare -f node); node" &
nodes=$!
finish() { # end what was started, by its id
    while kill "$nodes" 2>/dev/null; do wait "$nodes" || true; done
    rm -rf "$private"
}
trap finish EXIT

sweep='' again=''
stop() { if [[ $sweep ]]; then kill "$sweep" 2>/dev/null || true; else exit 143; fi; }
trap stop TERM INT
trap 'again=yes; stop' USR1
up() { find "$private" -name 'up-*' | wc -l; }
for ((second = 0; second < 180 && $(up) < SLURM_NNODES; second++)); do
    kill -0 "$nodes" || exit 1
    sleep 1
done
echo "Ray: $(up) of $SLURM_NNODES nodes. Dashboard: ssh -L 8265:127.0.0.1:$(<"$private/dashboard") $(hostname); it asks" \
    "for the token in $private/token."

RAY_ADDRESS=$(<"$private/address") bash tune/cluster/sweep.sh "$@" &
sweep=$!
while kill -0 "$sweep" 2>/dev/null; do wait "$sweep" || true; done
code=0
wait "$sweep" || code=$?
finish
if [[ $again && $code == 130 ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
