"""One pass over the scan as it is: logits, what they depend on in every window, and statistics to be held."""

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor

from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Site
from lesionwise.attribution.engine.workload import Pass, Workload
from lesionwise.attribution.sparse.footprint import Footprint
from lesionwise.geometry.box import Box


def learn(
    scene: Scene,
    sites: Sequence[Site],
    workload: Workload,
    *,
    progress_fn: Callable[[float], None] | None = None,
) -> list[Float[Tensor, "outputs _"]]:
    """Logits of the scan as it is at every voxel of Omega, over all views; on the way, what those voxels depend on in
    every window, and the statistics of normalisations that are held.

    One forward pass per view and window that meets any of the sites. `progress_fn` hears the share that is done.
    """
    if scene.runner.strategy != "local" and scene.runner.held is None:
        return scene.fused(sites, batch=workload.schedule.batch, progress_fn=progress_fn)
    found: dict[int, Tensor] = {}
    windows = sorted({w for site in sites for w in site.windows})
    for position, w in enumerate(windows):
        own = [site for site in sites if w in site.windows]
        boxes = [scene.in_window(w, site.readout.source)[0] for site in own]
        for view in range(scene.runner.views):
            logits = learn_pass(scene, (w, view), boxes, workload.footprint(w, view))[0] / scene.runner.views
            for site in own:
                if site.number not in found:
                    found[site.number] = logits.new_zeros((len(logits), *site.readout.source.shape))
                scene.grid.fuse(found[site.number], site.readout.source, w, logits)
            if progress_fn is not None:
                progress_fn((position + (view + 1) / scene.runner.views) / len(windows))
    return [
        site.readout.read(found[site.number])
        if site.number in found
        else scene.padded.new_zeros((outputs_of(scene), len(site.voxels)))
        for site in sites
    ]


def learn_pass(scene: Scene, at: Pass, boxes: Sequence[Box], footprint: Footprint) -> Float[Tensor, "1 outputs i j k"]:
    """Logits of one window in one view, as it is; the footprint learns what the logits in `boxes` depend on."""
    inputs = scene.window(at[0])[None]
    if scene.runner.strategy != "local":
        return scene.runner.logits(inputs, at=at)
    return scene.runner.learnt(inputs, footprint, boxes, at=at).values


def outputs_of(scene: Scene) -> int:
    return scene.spec.classes * scene.spec.members
