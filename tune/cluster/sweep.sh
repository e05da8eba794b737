#!/usr/bin/env bash
# sweep.sh FOLDER KEY=VALUE…: begin the sweep in FOLDER on the Ray cluster this machine belongs to, or resume it.
# So whatever starts a job anew (SLURM, KubeRay, a person) does so with the line that began it.
# -P: a folder named ccsi in the working folder, such as a checkout, is not taken for the package.
set -euo pipefail
folder=$1
shift
if [[ -f $folder/sweep.yaml ]]; then how=resume; else how=sweep.dir; fi
exec "${PYTHON:-python}" -P -m ccsi sweep ray.address=auto "$how=$folder" "$@"
