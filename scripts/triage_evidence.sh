#!/bin/sh
# The evidence for triage: patients, maps, features, comparison of feature sets, the shipped model. Resumes where it stopped.
#   scripts/triage_evidence.sh WORK [PATIENTS] [NETWORK] [REAL_BIDS_DIR]
# Two cohorts of synthetic patients (64 mm blocks; different seeds), at most 15 predicted lesions each drawn by outcome, N = 8, mean.
set -eu
work=$1
patients=${2:-20}
network=${3:-builtin}
real=${4:-}
python=${PYTHON:-python}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
tag=$(basename "$network")

for cohort in fit:11 held:12; do
  name=${cohort%:*}
  [ -f "$work/$name/participants.tsv" ] ||
    $python -m lesionwise phantom "$work/$name" --subjects "$patients" --seed "${cohort#*:}" --size small
  $python -m lesionwise triage explain "$work/$name" "$work/$tag-$name" --model "$network" --window 64 --instances 15 --samples 8
done
$python -m lesionwise triage fit "$work/$tag-fit" -o "$work/$tag.json" --network "$network" --window 64 \
  --features probability
$python -m lesionwise triage evidence "$work/$tag-fit" "$work/$tag-held" -o "$work/$tag-evidence" \
  --context --network "$network" --window 64
if [ -n "$real" ]; then
  $python -m lesionwise triage explain "$real" "$work/$tag-real" --model "$network" --instances 15 --samples 8
  $python -m lesionwise triage evidence "$work/$tag-fit" "$work/$tag-real" -o "$work/$tag-real-evidence" \
    --context --network "$network" --window 64
fi
