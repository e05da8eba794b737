#!/usr/bin/env bash
# submit.sh FOLDER KEY=VALUE…: hand this working tree and a sweep to the cluster behind RAY_API_SERVER_ADDRESS.
set -euo pipefail
cd "$(dirname "$0")/../.."
export RAY_API_SERVER_ADDRESS=${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265} RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
exec "${PYTHON:-.venv/bin/python}" -m ray.scripts.scripts job submit --runtime-env tune/cluster/runtime_env.yaml -- \
    bash tune/cluster/sweep.sh "$@"
