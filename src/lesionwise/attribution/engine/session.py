"""`attribute`: the maps of all instances of one scan, by any method."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lesionwise.attribution.engine.method import AbstractMethod
from lesionwise.attribution.engine.passes import Runner
from lesionwise.attribution.engine.plan import Plan, plan_sites, seen
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Site, VoxelSet
from lesionwise.attribution.engine.work import Work
from lesionwise.attribution.engine.workload import Workload
from lesionwise.attribution.result import Attribution
from lesionwise.attribution.target import AbstractTarget
from lesionwise.errors import InputError
from lesionwise.inpainting import inpaint
from lesionwise.segmenter import Placement, Spec
from lesionwise.types import MaskArray


def attribute(
    network: nn.Module,
    spec: Spec,
    placement: Placement,
    voxel_sets: Sequence[VoxelSet],
    *,
    method: AbstractMethod,
    target: "str | AbstractTarget" = "log_odds",
    seed: int = 0,
    device: str | torch.device = "cpu",
    memory_bytes: int | None = None,
    plan: Plan | None = None,
    baselines: Sequence[Float[Tensor, "channels i j k"]] | None = None,
    healthy: MaskArray | None = None,
    autocast: torch.dtype | None = None,
    tf32: bool = False,
    lesion_window: bool = False,
    progress_fn: Callable[[int, int], None] | None = None,
) -> list[Attribution]:
    """One map per voxel set (voxels of the scan's grid), in their order. See `stream` for the arguments."""
    found = dict(
        stream(
            network,
            spec,
            placement,
            voxel_sets,
            method=method,
            target=target,
            seed=seed,
            device=device,
            memory_bytes=memory_bytes,
            plan=plan,
            baselines=baselines,
            healthy=healthy,
            autocast=autocast,
            tf32=tf32,
            lesion_window=lesion_window,
            progress_fn=progress_fn,
        )
    )
    return [found[number] for number in range(len(voxel_sets))]


def stream(
    network: nn.Module,
    spec: Spec,
    placement: Placement,
    voxel_sets: Sequence[VoxelSet],
    *,
    method: AbstractMethod,
    target: "str | AbstractTarget" = "log_odds",
    seed: int = 0,
    device: str | torch.device = "cpu",
    memory_bytes: int | None = None,
    plan: Plan | None = None,
    baselines: Sequence[Float[Tensor, "channels i j k"]] | None = None,
    healthy: MaskArray | None = None,
    autocast: torch.dtype | None = None,
    tf32: bool = False,
    lesion_window: bool = False,
    progress_fn: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, Attribution]]:
    """Number of the voxel set and its map, as lesions finish.

    `plan` (from `plan_attribution`) is kept to; without one it is made first, within `memory_bytes`. `baselines` are
    lesion-free inputs on the network's grid, one per voxel set, for the methods that need one; by default the lesion is
    inpainted, from `healthy` tissue (scan's grid) if given. `lesion_window` is an approximation: one window around each
    lesion in the place of the fused ones, named in the details of every map that was made so. `autocast` (a shorter type)
    and `tf32` (CUDA) trade precision for speed; neither is used unless asked for. The network is left as it
    was found, also after an error or when the iteration is given up. Raises InputError for voxel sets that are empty or
    outside the scan.
    """
    if baselines is not None and len(baselines) != len(voxel_sets):
        raise InputError(f"Expected one baseline per voxel set, found {len(baselines)} for {len(voxel_sets)}.")
    opened = Scene.open(network, spec, placement, target=target, seed=seed, device=device, autocast=autocast, tf32=tf32)
    with opened as scene:
        scene, sites = seen(scene, voxel_sets, lesion_window=lesion_window)
        chosen = plan or plan_sites(scene, sites, method, memory_bytes=memory_bytes)
        runner = Runner(network, strategy=chosen.strategy, together=chosen.together, autocast=autocast)

        def baseline(site: Site) -> Tensor:
            if baselines is not None:
                return baselines[site.number].to(scene.padded)
            return inpainted(placement, sites, site, healthy=healthy, seed=seed).to(scene.padded)

        work = Work(
            groups=chosen.groups,
            workload=Workload(chosen.batch, chosen.together, chosen.kept_windows),
            baseline_fn=baseline,
            total=len(chosen.groups) * method.draws_per_lesion,
            progress_fn=progress_fn,
        )
        alone = {site.number for site in sites if site.is_alone_in(scene.grid)}
        for number, found in method.explain(scene.running(runner), work, sites):
            yield number, found.approximated("lesion-window") if number in alone else found


def inpainted(
    placement: Placement, sites: Sequence[Site], site: Site, *, healthy: MaskArray | None, seed: int
) -> Float[Tensor, "channels i j k"]:
    """The network's input with one lesion replaced by healthy tissue; other lesions are never copied from."""
    own = _on_network(placement, [site])
    tissue = None
    if healthy is not None:
        lesions = _on_network(placement, sites)
        moved = placement.to_network.forward(torch.from_numpy(healthy).float()).numpy() > 0.5
        tissue = moved & ~lesions
    image = placement.input[0].detach().cpu().numpy().astype(np.float32)
    filled = inpaint(image, own, healthy=tissue, rng=np.random.default_rng([seed, site.number]), grow_vox=1)
    # float64 inputs keep their own values wherever nothing was filled in
    changed = torch.from_numpy(filled != image)
    return torch.where(changed, torch.from_numpy(filled).to(placement.input), placement.input[0])


def _on_network(placement: Placement, sites: Sequence[Site]) -> MaskArray:
    mask = torch.zeros(placement.to_scan.target_shape)
    for site in sites:
        i, j, k = site.voxels.T
        mask[i, j, k] = 1
    return placement.to_network.forward(mask).numpy() > 0.25
