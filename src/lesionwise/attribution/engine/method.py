"""What every attribution method is: a frozen set of settings that explains sites of a scene."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

from lesionwise.attribution.engine.draws import AbstractDraws
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Site
from lesionwise.attribution.engine.work import Work
from lesionwise.attribution.result import Attribution
from lesionwise.attribution.target import AbstractTarget
from lesionwise.segmenter import Spec


class AbstractMethod(ABC):
    """Settings of one method. `name` is what files are called (the desc entity)."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in files, such as "smoothgradmean"."""

    @property
    def quantitative(self) -> bool:
        """True if values compare between lesions and scans."""
        return True

    @property
    def is_derivative(self) -> bool:
        """True if the map is the derivative of the lesion's mean target, so that its sum over a region is what the
        target gains when the region brightens by one standard deviation (METHOD section 3, "effect")."""
        return False

    @property
    def draws_per_lesion(self) -> int:
        """Inputs per lesion at which the network is evaluated."""
        return 1

    @property
    def shares_draws(self) -> bool:
        """True if all lesions are explained at the same inputs, so that one forward pass serves all in a window."""
        return True

    @property
    def seeds_per_lesion(self) -> int | None:
        """Vector-Jacobian products per lesion and draw; None for one per lesion voxel."""
        return 1

    @property
    def statistics(self) -> tuple[str, ...]:
        """How normalisation statistics can be treated, see `RunOptions`."""
        return ("exact",)

    def draws(self, scene: Scene) -> AbstractDraws | None:
        """The inputs of a method that samples; None for others."""
        return None

    @property
    def voxels_per_seed(self) -> int:
        """Voxels that one vector-Jacobian product sums."""
        return 1

    def channels(self, spec: Spec) -> tuple[str, ...]:
        """Names of the map's channels."""
        return spec.channels

    @abstractmethod
    def units(self, target: AbstractTarget) -> str:
        """Unit of the map's values."""

    @abstractmethod
    def explain(self, scene: Scene, work: Work, sites: Sequence[Site]) -> Iterator[tuple[int, Attribution]]:
        """Site number and its map, as they are finished."""


MethodFactory = Callable[..., AbstractMethod]
