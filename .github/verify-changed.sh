#!/usr/bin/env bash
# usage: verify-changed.sh SUBMITTED TOOL BASE
# Runs mixbench verify on every folder of SUBMITTED/leaderboards/incoming that is not, file for file, in TOOL, the
# checkout of the target branch at commit BASE. Names come from a stranger: none is ever part of a command.
set -euo pipefail
submitted=$1 tool=$2 base=$3
incoming=leaderboards/incoming
echo "target branch at $base"
if [ -L "$submitted/leaderboards" ] || [ -L "$submitted/$incoming" ]; then
  echo "leaderboards/incoming is a link: put the folder itself there" >&2
  exit 1
fi
status=0 found=0
shopt -s nullglob dotglob
for folder in "$submitted/$incoming"/*; do
  name=${folder##*/}
  if diff -rq --no-dereference -- "$folder" "$tool/$incoming/$name" >/dev/null 2>&1; then
    continue
  fi
  found=1
  mixbench verify --output "${RUNNER_TEMP:-/tmp}/verification.json" -- "$folder" || status=1
done
if [ "$found" -eq 0 ]; then
  echo "no submission changed in $incoming" >&2
  exit 1
fi
exit "$status"
