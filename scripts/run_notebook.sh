#!/bin/sh
# Run a notebook by papermill: run_notebook.sh NOTEBOOK OUT PARAMETERS (as YAML or JSON). PYTHON names the interpreter.
# What it says goes to a log beside OUT, of which the last lines are shown where it fails.
set -u
notebook=$1 out=$2 parameters=$3
log=${out%.ipynb}.log
mkdir -p "$(dirname "$out")"
"${PYTHON:-python3}" -m papermill --no-progress-bar "$notebook" "$out" -y "$parameters" > "$log" 2>&1 && exit
tail -n 3 "$log" >&2
exit 1
