"""One scan made ready: its channels on one grid, the brain alone, brightness evened out, and how far to trust it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import ndimage

from lesionwise.errors import GridMismatchError, InputError
from lesionwise.geometry.affine import same_grid, to_mm
from lesionwise.geometry.head import find_head
from lesionwise.geometry.volume import Volume
from lesionwise.prepare.bias import correct_bias
from lesionwise.prepare.doubts import Quality, judge, measure_alignment, measure_brain
from lesionwise.prepare.extraction import EXTRACTIONS
from lesionwise.prepare.recognition import stripped_brain, whole_head
from lesionwise.prepare.registration import Rigid, register
from lesionwise.prepare.resampling import SourceMask, mask_onto_grid, onto_grid
from lesionwise.types import Affine, MaskArray, ScalarArray

AT_REST_MM = 0.3
"""A channel on the fixed grid that would move less than this at the brain's surface stays as it is: interpolation would
only blur it."""

BRAIN_FROM = "T1w"
"""Channel whose brain mask counts where it was scanned: extraction tools are made for it."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What a user may choose: the channel whose grid all others go to, and how the brain is found.

    `extraction` is a name of `EXTRACTIONS`, or "none" to keep the whole head.
    """

    onto: str = "FLAIR"
    extraction: str = "deepbet"

    def __post_init__(self) -> None:
        names = (*EXTRACTIONS, "none")
        if self.extraction not in names:
            raise InputError(f"Expected --brain-extraction to be one of {', '.join(names)}, found {self.extraction!r}.")


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan ready to be explained.

    `image` holds all channels on the grid of the channel `fixed`, 0 outside `brain`. `motions` has the motion of every
    channel that had to be aligned, and `steps` says in sentences what was done. `left_alone` is True for a scan that was
    ready before: its values are those of its files. `before` and `after` hold the channels with all their skull on the
    fixed grid, as the headers place them and aligned, for the figure.
    """

    image: Volume
    brain: MaskArray
    fixed: str
    quality: Quality
    motions: Mapping[str, Rigid] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    left_alone: bool = False
    before: Mapping[str, ScalarArray] = field(default_factory=dict)
    after: Mapping[str, ScalarArray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Part:
    """One channel on its way: as it was read, its brain and head there, and its motion if it had to be aligned."""

    volume: Volume
    brain: MaskArray
    head: MaskArray
    stripped: bool
    rigid: Rigid | None = None

    @property
    def name(self) -> str:
        return self.volume.channels[0]

    @property
    def matrix(self) -> Affine:
        """From the fixed channel's world to this one's."""
        return np.eye(4) if self.rigid is None else self.rigid.matrix

    def image_on(self, fixed: Volume, matrix: Affine) -> ScalarArray:
        if on_one_grid(fixed, self.volume) and np.array_equal(matrix, np.eye(4)):
            return self.volume.data[0]
        return onto_grid(self.volume, matrix, shape=fixed.shape, affine=fixed.affine)

    def mask_on(self, fixed: Volume, mask: SourceMask) -> MaskArray:
        return mask_onto_grid(mask, self.volume.affine, self.matrix, shape=fixed.shape, affine=fixed.affine)


def prepare_scan(
    channels: Mapping[str, Volume], choices: Preparation, *, announce_fn: Callable[[str], None] | None = None
) -> Prepared:
    """Aligns the channels, finds the brain, evens out the brightness; a scan that is ready is left alone.

    `channels` maps names to single-channel volumes on grids of their own. Raises InputError for a channel to go onto that
    is not there, for channels with nothing in common, and where no brain is found.
    """
    say = announce_fn or (lambda sentence: None)
    if choices.onto not in channels:
        raise InputError(f"Expected --onto to be one of the channels {', '.join(channels)}, found {choices.onto}.")
    fixed = channels[choices.onto]
    stripped = {name: stripped_brain(volume) for name, volume in channels.items()}
    if all(mask is not None for mask in stripped.values()) and all(
        on_one_grid(fixed, one) for one in channels.values()
    ):
        return _as_it_is(channels, choices.onto)
    parts = {}
    for name, volume in channels.items():
        say(f"Looking for the brain in {name}.")
        parts[name] = _part(volume, stripped[name], choices)
    main = parts[choices.onto]
    for name, part in parts.items():
        if name != choices.onto:
            say(f"Aligning {name} with {main.name}.")
            parts[name] = _aligned(main, part)
    say("Evening out the brightness.")
    return _assembled(main, parts, choices)


def on_one_grid(first: Volume, second: Volume) -> bool:
    """True if two volumes share one grid (corners within a tenth of a voxel)."""
    return same_grid(first.shape, first.affine, (second.shape, second.affine))


def reference_on(
    reference: SourceMask, affine: Affine, channels: Mapping[str, Volume], prepared: Prepared
) -> MaskArray:
    """A lesion mask on the prepared scan's grid, moved with the channel on whose grid it was drawn (nearest voxel).

    Raises GridMismatchError if it lies on no channel's grid.
    """
    drawn = Volume(reference[None].astype(np.float32), affine, ("reference",))
    names = [prepared.fixed, *(name for name in channels if name != prepared.fixed)]
    on = next((name for name in names if on_one_grid(drawn, channels[name])), None)
    if on is None:
        raise GridMismatchError(
            f"Expected the reference on the grid of {' or '.join(channels)}, found another of {reference.shape} voxels."
        )
    if on == prepared.fixed:
        return reference
    matrix = prepared.motions[on].matrix if on in prepared.motions else np.eye(4)
    return mask_onto_grid(reference, affine, matrix, shape=prepared.image.shape, affine=prepared.image.affine)


def _as_it_is(channels: Mapping[str, Volume], fixed: str) -> Prepared:
    image = Volume(
        np.concatenate([volume.data for volume in channels.values()]), channels[fixed].affine, tuple(channels)
    )
    brain = find_head(image)
    steps = ("The channels share one grid and hold the brain alone: they were left as they are.",)
    return Prepared(image, brain, fixed, judge(measure_brain(brain, image.affine)), steps=steps, left_alone=True)


def _part(volume: Volume, stripped: MaskArray | None, choices: Preparation) -> _Part:
    """A channel with its brain: as delivered, or found."""
    if stripped is not None:
        return _Part(volume, stripped, stripped, True)
    head = whole_head(volume)
    brain = head if choices.extraction == "none" else EXTRACTIONS[choices.extraction](volume)
    if not brain.any():
        raise InputError(f"Expected a brain in the {volume.channels[0]} image, but {choices.extraction} finds none.")
    return _Part(volume, brain, head, False)


def _aligned(main: _Part, part: _Part) -> _Part:
    return replace(part, rigid=register(main.volume, part.volume, head=main.head, brain=main.brain))


def _at_rest(main: _Part, part: _Part) -> bool:
    if part.rigid is None or not on_one_grid(main.volume, part.volume):
        return False
    surface = to_mm(np.argwhere(main.brain & ~ndimage.binary_erosion(main.brain)), main.volume.affine)
    return bool(part.rigid.moved_mm(surface).max() <= AT_REST_MM)


def _assembled(main: _Part, parts: Mapping[str, _Part], choices: Preparation) -> Prepared:
    """Everything on the fixed grid, measured and judged."""
    fixed = main.volume
    placed = {name: replace(part, rigid=None) if _at_rest(main, part) else part for name, part in parts.items()}
    whole = {name: part.image_on(fixed, part.matrix) for name, part in placed.items()}
    brain = _common_brain(main, placed)
    measures = measure_brain(brain, fixed.affine)
    data = {}
    for name, image in whole.items():
        channel, ratio = correct_bias(image, fixed.affine, brain)
        data[name] = np.where(brain, channel, 0).astype(np.float32)
        measures[f"bias_{'fixed' if name == main.name else name}"] = ratio
    other = next((part for name, part in placed.items() if name != main.name), None)
    if other is not None:
        measures["bias_moved"] = measures.pop(f"bias_{other.name}")
        measures |= measure_alignment(
            parts[other.name].rigid,  # type: ignore[arg-type]
            brain,
            fixed.affine,
            brains=(main.brain, other.mask_on(fixed, other.brain)),
            heads=(main.head, other.mask_on(fixed, other.head)),
            covered=other.mask_on(fixed, np.ones(other.volume.shape, dtype=bool)),
            comparable=main.stripped == other.stripped,
        )
    return Prepared(
        Volume(np.stack([data[name] for name in parts]), fixed.affine, tuple(parts)),
        brain,
        main.name,
        judge(measures, fixed=main.name, moved=None if other is None else other.name),
        {name: part.rigid for name, part in placed.items() if part.rigid is not None},
        tuple(_steps(main, parts, placed, choices)),
        before={name: part.image_on(fixed, np.eye(4)) for name, part in parts.items()},
        after=whole,
    )


def _common_brain(main: _Part, placed: Mapping[str, _Part]) -> MaskArray:
    """The brain on the fixed grid: that of `BRAIN_FROM` where it was scanned, and nothing that a channel was stripped of."""
    brain = main.brain
    source = placed.get(BRAIN_FROM)
    if source is not None and source is not main and not (main.stripped and not source.stripped):
        covered = source.mask_on(main.volume, np.ones(source.volume.shape, dtype=bool))
        brain = np.where(covered, source.mask_on(main.volume, source.brain), brain)
    for part in placed.values():
        if part.stripped:
            covered = part.mask_on(main.volume, np.ones(part.volume.shape, dtype=bool))
            brain = brain & (part.mask_on(main.volume, part.brain) | ~covered)
    return brain


def _steps(main: _Part, parts: Mapping[str, _Part], placed: Mapping[str, _Part], choices: Preparation) -> Sequence[str]:
    """What was done, for sidecars and reports."""
    steps = [f"{main.name} keeps its own grid; no voxel of it was interpolated."]
    for name, part in parts.items():
        if part is parts[main.name]:
            continue
        if placed[name].rigid is None:
            steps.append(
                f"{name} lies on that grid and within {AT_REST_MM} mm of {main.name}: it was not interpolated."
            )
        else:
            steps.append(
                f"{name} was registered rigidly to {main.name} by mutual information and interpolated once (cubic splines)."
            )
    stripped = [name for name, part in parts.items() if part.stripped]
    if stripped:
        steps.append(f"{' and '.join(stripped)} came with the brain alone.")
    if len(stripped) < len(parts):
        how = "was not extracted" if choices.extraction == "none" else f"was extracted by {choices.extraction}"
        steps.append(f"The brain {how}.")
    steps.append("Brightness was evened out within the brain (N4).")
    return steps
