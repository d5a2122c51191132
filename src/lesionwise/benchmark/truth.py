"""The right answer for every planted blob, verified by changing the scan.

A cause counts only if the network lives by it: taking it away turns the decision, taking half of it away moves the output
the same way, and taking away what the other channel shows in the same place turns nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from lesionwise.asking.probe import Probe
from lesionwise.asking.scan import Scan
from lesionwise.attribution.result import Attribution, Removal
from lesionwise.benchmark.patients import Patient, PlantedBlob, Stroke
from lesionwise.benchmark.rules import SEEN_MM, PlantedRule
from lesionwise.benchmark.scores import Cell, KnownAnswer
from lesionwise.geometry.box import Box
from lesionwise.geometry.distance import distance_to_mm
from lesionwise.instances.instance import Instance
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.types import MaskArray
from lesionwise.units import Settings
from lesionwise.units.work import find_case

AROUND_MM = SEEN_MM
RIM_MM = 3.0
NOISE_SD = 0.02
"""Of a scan that is shaken, in standard deviations of the channel in the head."""
FOUND = 0.5
"""Mean probability over a blob from which it counts as found."""
Kind = Literal["derivative", "contribution", "location"]
"""What a map's values are: what brightening does, what the image as it is contributes, or neither."""


@dataclass(frozen=True, eq=False)
class Verified:
    """What the network did when one blob's causes were taken away; log-odds are means over the blob."""

    was_found: bool
    wanted: bool
    turned: tuple[bool, ...]
    monotone: tuple[bool, ...]
    untouched: tuple[bool, ...]
    log_odds: float
    worth: tuple[float, ...]

    @property
    def decided(self) -> bool:
        """True if the network decided as the rule says, before anything was changed."""
        return self.was_found == self.wanted

    @property
    def holds(self) -> bool:
        """True if the planted causes are the network's."""
        return self.decided and all(self.turned) and all(self.monotone) and all(self.untouched)


@dataclass(frozen=True, eq=False)
class Exam:
    """One patient before a rule's network: blobs are the instances of `scan`, numbered from 1 in their order."""

    rule: PlantedRule
    patient: Patient
    scan: Scan

    @classmethod
    def of(cls, rule: PlantedRule, patient: Patient, model: AbstractSegmenter, settings: Settings) -> "Exam":
        """The patient predicted, with the planted blobs in the place of predicted components."""
        _, _, explained = find_case(model, patient.case, settings)
        affine = patient.background.affine
        blobs = [
            Instance(number, np.argwhere(blob.mask), affine, "TP" if blob.is_lesion else "FP", "reference", float(blob.is_lesion))
            for number, blob in enumerate(patient.blobs, start=1)
        ]  # fmt: skip
        exam = cls(rule, patient, Scan(model, replace(explained, instances=tuple(blobs)), settings.device))
        asked = tuple(number for number, _ in exam.asked)
        return replace(exam, scan=replace(exam.scan, wanted=asked))

    @property
    def asked(self) -> list[tuple[int, PlantedBlob]]:
        """Numbers and blobs that the rule asks about."""
        lesions = self.rule.asked_of == "lesions"
        return [
            (number, blob)
            for number, blob in enumerate(self.patient.blobs, start=1)
            if (blob.is_lesion if lesions else blob.kind == "vetoed")
        ]

    @property
    def speaks(self) -> int:
        """1 if the causes speak for the blob, -1 if they speak against it."""
        return 1 if self.rule.asked_of == "lesions" else -1

    def instance(self, number: int) -> Instance:
        """The blob as an instance."""
        return self.scan.instances[number - 1]

    def parts(self, blob: PlantedBlob, names: Sequence[str]) -> list[Stroke]:
        """The blob's strokes of these names."""
        return [one for name in names for one in blob.strokes if one.name == name]

    @cached_property
    def sd(self) -> np.ndarray:
        """One standard deviation of each channel in the head, in image units."""
        return self.patient.image[:, self.patient.background.head].std(axis=1, dtype=float)

    def in_network_units(self, one: Stroke) -> np.ndarray:
        """A stroke (channels, i, j, k) in the network's units: taking it away leaves mean and SD as they were."""
        out = np.zeros(self.patient.image.shape)
        out[one.channel] = one.change * self.patient.background.head / self.sd[one.channel]
        return out

    def without(self, probe: Probe, one: Stroke, share: float = 1.0) -> Tensor:
        """The network's input without a stroke, or a share of it."""
        change = torch.from_numpy(self.in_network_units(one)[(slice(None), *probe.box.slices)])
        return probe.base - share * change.to(probe.base)

    def other_channel_healthy(self, probe: Probe, one: Stroke) -> Tensor:
        """The input with healthy tissue at the stroke's region in the other channels."""
        region = one.region[probe.box.slices]
        filled = probe.inpainted(region, rng=self.scan.rng(51))
        filled[one.channel] = probe.base[one.channel]
        return filled

    def verify(self, number: int) -> Verified:
        """Asks the network about the blob with and without its causes."""
        blob = self.patient.blobs[number - 1]
        causes = self.parts(blob, self.rule.causes)
        probe = self.scan.probe(self.instance(number))
        alone = len(causes) == 1
        inputs = [probe.base]
        for one in causes:
            inputs += [self.without(probe, one), self.without(probe, one, 0.5)]
            inputs += [self.other_channel_healthy(probe, one)] if alone else []
        read = [reading[0] for reading in probe.read(inputs)]
        before, rest = read[0], read[1:]
        step = 3 if alone else 2
        found = [one.score > FOUND for one in rest]
        was = before.score > FOUND
        full, half = rest[::step], rest[1::step]
        fallen = [self.speaks * (before.target_mean - one.target_mean) for one in full]
        fallen_half = [self.speaks * (before.target_mean - one.target_mean) for one in half]
        return Verified(
            was_found=was,
            wanted=blob.is_lesion,
            turned=tuple(one != was for one in found[::step]),
            monotone=tuple(whole > 0 and part > 0 for whole, part in zip(fallen, fallen_half, strict=True)),
            untouched=tuple(one == was for one in found[2::step]) if alone else (),
            log_odds=before.target_mean,
            worth=tuple(before.target_mean - one.target_mean for one in full),
        )

    def answer(self, number: int, kind: Kind) -> KnownAnswer:
        """The right answer for a map of this kind."""
        blob = self.patient.blobs[number - 1]
        shape = blob.mask.shape
        distance = distance_to_mm(blob.mask, self.scan.sizes_mm)
        head = self.patient.background.head
        causes, also = self.parts(blob, self.rule.causes), self.parts(blob, self.rule.also)
        near = (distance <= AROUND_MM) & head
        for one in causes:
            near |= one.region & head
        places: dict[str, MaskArray] = {one.name.split()[0]: one.region & head for one in (*causes, *also)}
        taken = np.any(list(places.values()), axis=0) if places else np.zeros(shape, dtype=bool)
        inside = {"lesion": blob.mask, "rim": (distance > 0) & (distance <= RIM_MM) & head}
        inside["ventricles"] = self.patient.background.ventricles & near
        for name, mask in inside.items():
            if name not in places and not (name == "lesion" and "core" in places) and (mask & ~taken).any():
                places[name] = mask & ~taken
                taken = taken | mask
        places["elsewhere"] = near & ~ndimage.binary_dilation(taken)
        right = {(one.name.split()[0], one.channel): self._sign(one, kind) for one in causes}
        extra = {(one.name.split()[0], one.channel) for one in also}
        cells = [
            Cell(place, channel, mask, right.get((place, channel), 0))
            for place, mask in places.items()
            for channel in range(len(self.patient.image))
        ]
        return KnownAnswer(
            causes=tuple(cell for cell in cells if cell.sign),
            also=tuple(cell for cell in cells if (cell.place, cell.channel) in extra),
            wrong=tuple(cell for cell in cells if not cell.sign and (cell.place, cell.channel) not in extra),
            near=near,
            others=self.others(number) & ~near,
        )

    def others(self, number: int) -> MaskArray:
        """Voxels of other blobs."""
        masks = [blob.mask for n, blob in enumerate(self.patient.blobs, start=1) if n != number]
        return np.any(masks, axis=0) if masks else np.zeros(self.patient.image.shape[1:], dtype=bool)

    def _sign(self, one: Stroke, kind: Kind) -> int:
        return self.speaks * (one.brightens if kind == "derivative" else 1)

    def true_map(self, number: int, *, noise: np.random.Generator | None = None) -> Attribution:
        """What each stroke of the blob is worth to the network when it is taken away, spread evenly over its region.

        `noise` is for the same of a scan with `NOISE_SD` of noise.
        """
        blob = self.patient.blobs[number - 1]
        parts = self.parts(blob, (*self.rule.causes, *self.rule.also))
        probe = self.scan.probe(self.instance(number))
        shift = torch.zeros_like(probe.base)
        if noise is not None:
            drawn = NOISE_SD * noise.standard_normal(tuple(probe.base.shape)) * probe.head
            shift = torch.from_numpy(drawn).to(probe.base)
        readings = probe.read([one + shift for one in (probe.base, *(self.without(probe, part) for part in parts))])
        y = [reading[0].target_mean for reading in readings]
        data, difference = np.zeros(self.patient.image.shape, dtype=np.float32), np.zeros(self.patient.image.shape)
        for one, without in zip(parts, y[1:], strict=True):
            data[one.channel][one.region] += (y[0] - without) / one.region.sum()
            difference += self.in_network_units(one)
        box = Box.whole(self.patient.image.shape[1:])
        removal = Removal(difference, box)
        peak, trough = data.max(axis=(1, 2, 3)), data.min(axis=(1, 2, 3))
        return Attribution(data, box, None, 1, None, peak, trough, None, None, y[0], None, 0.0, removal=removal)
