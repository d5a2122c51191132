#!/bin/sh
# The evidence for triage: patients, maps, features, the choice within the fitting cohort, the model, other patients.
# Resumes where it stopped; docs/triage.md holds what it found.
#   scripts/triage_evidence.sh WORK [NETWORK] [SIZE] [REAL_BIDS_DIR]
# NETWORK is builtin or a model's folder; SIZE is full (whole heads) or small (64 mm blocks).
# Environment: PATIENTS (20 per cohort), INSTANCES (15 per scan to fit on), HELD_INSTANCES (as many), WINDOW (48: edge of
# the window in which the network is asked again), SEEDS (of the two cohorts).
set -eu
work=$1
network=${2:-builtin}
size=${3:-full}
real=${4:-}
python=${PYTHON:-python}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
patients=${PATIENTS:-20}
instances=${INSTANCES:-15}
held_instances=${HELD_INSTANCES:-$instances}
seeds=${SEEDS:-21 22}
extras="--context --disagreement --radiomics --network $network --window ${WINDOW:-48}"
tag=$(basename "$network")
here="$work/$size"
window=""
[ "$size" = full ] || window="--window 64"

explain() { # cohort, its seed, instances
  [ -f "$here/$1/participants.tsv" ] ||
    $python -m lesionwise phantom "$here/$1" --subjects "$patients" --seed "$2" --size "$size"
  $python -m lesionwise triage explain "$here/$1" "$here/$tag-$1" --model "$network" $window --instances "$3" --samples 8
}
explain fit "${seeds% *}" "$instances"
explain held "${seeds#* }" "$held_instances"

# Everything is chosen and fitted before the held-out patients are looked at.
$python -m lesionwise triage choose "$here/$tag-fit" -o "$here/$tag-choice.json" $extras
$python -m lesionwise triage fit "$here/$tag-fit" -o "$here/$tag.json" --choice "$here/$tag-choice.json" \
  --network "$network" --window "${WINDOW:-48}"
$python -m lesionwise triage evidence "$here/$tag-fit" "$here/$tag-held" -o "$here/$tag-evidence" $extras
$python -m lesionwise triage evaluate "$here/$tag-held" -o "$here/$tag-held-out" --model "$here/$tag.json" \
  --network "$network" --window "${WINDOW:-48}"
if [ -n "$real" ]; then
  $python -m lesionwise triage explain "$real" "$here/$tag-real" --model "$network" --instances "$instances" --samples 8
  $python -m lesionwise triage evaluate "$here/$tag-real" -o "$here/$tag-real-scans" --model "$here/$tag.json" \
    --network "$network" --window "${WINDOW:-48}"
fi
