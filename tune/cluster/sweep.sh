#!/usr/bin/env bash
# sweep.sh FOLDER KEY=VALUE…: begin the sweep in FOLDER on the Ray cluster this machine belongs to, or go on with it.
# So whatever starts a job anew (SLURM, KubeRay, a person) does so with the line that began it.
set -euo pipefail
folder=$1
shift
if [[ -f $folder/sweep.yaml ]]; then how=resume; else how=sweep.dir; fi
exec "${PYTHON:-python}" "$(dirname "$0")/../sweep.py" ray.address=auto "$how=$folder" "$@"
