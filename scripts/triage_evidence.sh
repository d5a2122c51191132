#!/bin/sh
# The evidence for triage: patients, maps, features, the choice within the fitting cohort, the model, other patients.
# Resumes where it stopped; docs/triage-evidence.md holds what it found.
#   scripts/triage_evidence.sh WORK [NETWORK] [SIZE] [REAL_BIDS_DIR]
# NETWORK is builtin or a model's folder; SIZE is full (whole heads) or small (64 mm blocks).
# Environment: PATIENTS (20 per cohort), INSTANCES (15 per scan to fit on), HELD_INSTANCES (as many), WINDOW (48: edge of
# the window in which the network is asked again), SEEDS (of the two cohorts). MORE (0; 80 for the model that ships): patients
# whose lesions are predicted, not explained, to fit the chosen set on if it needs no map, and half as many to judge it.
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
more=${MORE:-0}
extras="--context --disagreement --radiomics --network $network --window ${WINDOW:-48}"
tag=$(basename "$network")
here="$work/$size"
window=""
[ "$size" = full ] || window="--window 64"

explain() { # cohort, its seed, patients, instances
  [ -f "$here/$1/participants.tsv" ] ||
    $python -m lesionwise phantom "$here/$1" --subjects "$3" --seed "$2" --size "$size"
  $python -m lesionwise triage explain "$here/$1" "$here/$tag-$1" --model "$network" $window --instances "$4" --samples 8
}
evaluate() { # cohort, model
  $python -m lesionwise triage evaluate "$here/$tag-$1" -o "$here/$tag-$1-judged" --model "$2" \
    --network "$network" --window "${WINDOW:-48}"
}
explain fit "${seeds% *}" "$patients" "$instances"
explain held "${seeds#* }" "$patients" "$held_instances"

# Everything is chosen and fitted before the held-out patients are looked at.
$python -m lesionwise triage choose "$here/$tag-fit" -o "$here/$tag-choice.json" $extras
fitted=fit
if [ "$more" -gt 0 ]; then
  explain more 31 "$more" 0
  explain more-held 32 $((more / 2)) 0
  fitted=more
fi
$python -m lesionwise triage fit "$here/$tag-$fitted" -o "$here/$tag.json" --choice "$here/$tag-choice.json" --misses \
  --network "$network" --window "${WINDOW:-48}"
$python -m lesionwise triage evidence "$here/$tag-fit" "$here/$tag-held" -o "$here/$tag-evidence" $extras
evaluate held "$here/$tag.json"
[ "$more" -eq 0 ] || evaluate more-held "$here/$tag.json"
if [ -n "$real" ]; then
  $python -m lesionwise triage explain "$real" "$here/$tag-real" --model "$network" --instances "$instances" --samples 8
  evaluate real "$here/$tag.json"
fi
