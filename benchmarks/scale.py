"""What a cohort costs: passes of the published networks, the cohort table, the overhead of an engine.

python -m benchmarks.scale passes [--device cuda]      seconds of a forward and a backward pass per window
python -m benchmarks.scale table FOLDER [--scans 4000]  size and time of lesions.parquet and of the group step
python -m benchmarks.scale overhead [--units 10000] [--scheduler FILE]   empty units through each engine
python -m benchmarks.scale extrapolate FORWARD_S BACKWARD_S ...          hours for 4023 scans
"""

import argparse
import math
import os
import resource
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

SCANS = 4023
LESIONS = 25
"""Per scan: the median of METHOD section 8."""
DRAWS = 50
SEEDS_MAX = 36
"""Mean of min(voxels, 64) for log-normal volumes as in METHOD section 8 (ln: 3.51, 1.31), at 1 mm."""
GRID = (182, 218, 182)
"""Voxels of a head at 1 mm, MNI box."""
WINDOW, OVERLAP = 96, 0.25


def networks():
    """The published classes with the published sizes (METHOD section 6)."""
    from monai.networks.nets import DynUNet, SwinUNETR, UNet

    yield (
        "U-Net",
        lambda: UNet(
            spatial_dims=3,
            in_channels=2,
            out_channels=2,
            channels=(32, 64, 128, 256, 512),
            strides=(2, 2, 2, 2),
            norm="batch",
            num_res_units=0,
        ),
    )
    yield (
        "nnU-Net (DynUNet 16-32-64)",
        lambda: DynUNet(
            spatial_dims=3,
            in_channels=2,
            out_channels=2,
            kernel_size=[3, 3, 3],
            strides=[1, 2, 2],
            upsample_kernel_size=[2, 2],
            filters=[16, 32, 64],
            norm_name="instance",
            res_block=True,
        ),
    )
    yield "Swin UNETR", lambda: SwinUNETR(in_channels=2, out_channels=2, feature_size=24, spatial_dims=3)


def passes(device: str, repeats: int) -> None:
    """One 96^3 window forward, and back to the input: CPU time of one thread (other work on the machine hardly
    matters then), or wall time on a GPU."""
    import torch

    torch.set_num_threads(1)

    for name, build in networks():
        network = build().eval().to(device)
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        x = torch.randn(1, 2, WINDOW, WINDOW, WINDOW, device=device, requires_grad=True)
        best = [math.inf, math.inf]
        for _ in range(repeats):
            started = _clock(device)
            y = network(x)[:, 1].mean()
            middle = _clock(device)
            torch.autograd.grad(y, x)
            best = [min(best[0], middle - started), min(best[1], _clock(device) - middle)]
        unit = "s" if device.startswith("cuda") else "s of CPU time"
        print(
            f"{name}: forward {best[0]:.3f}, backward {best[1]:.3f} {unit}, {torch.get_num_threads()} threads",
            flush=True,
        )
        for line in extrapolate(*best):
            print(f"  {line}", flush=True)


def windows_per_lesion() -> tuple[int, float]:
    """Windows over a head, and the mean number that a small lesion meets."""
    from lesionwise.windows import WindowGrid

    grid = WindowGrid.over(GRID, window=(WINDOW,) * 3, overlap=OVERLAP)
    rng = np.random.default_rng(0)
    centres = rng.integers(20, np.asarray(GRID) - 20, size=(400, 3))
    met = [len(grid.meeting_voxels(centre + np.argwhere(np.ones((3, 3, 3))) - 1)) for centre in centres]
    return len(grid.boxes), float(np.mean(met))


def extrapolate(forward_s: float, backward_s: float) -> list[str]:
    """Hours for 4023 scans on 1, 8 and 64 such devices. Forward passes serve all lesions of a window."""
    windows, met = windows_per_lesion()
    lines = []
    for reduce, seeds in (("mean", 1), ("max, 64 voxels", SEEDS_MAX)):
        per_scan = windows * forward_s  # the prediction
        used = min(windows, LESIONS * met)
        per_scan += DRAWS * (used * forward_s + LESIONS * met * seeds * backward_s)
        hours = [SCANS * per_scan / 3600 / n for n in (1, 8, 64)]
        lines.append(
            f"{reduce}: {per_scan:.0f} s per scan; {SCANS} scans: "
            + ", ".join(f"{h:.0f} h on {n}" for h, n in zip(hours, (1, 8, 64), strict=True))
        )
    return lines


def table(folder: Path, scans: int) -> None:
    """Generated rows: `scans` x 30 lesions."""
    import pandas as pd

    from lesionwise import lesion_table, store
    from lesionwise.geometry.volume import ScanName
    from lesionwise.study.group import run_group

    rng, columns = np.random.default_rng(0), lesion_table.columns(("FLAIR", "T1w"))
    started = time.perf_counter()
    for number in range(scans):
        rows = pd.DataFrame(rng.normal(size=(30, len(columns))), columns=columns)
        rows["lesion"] = range(1, 31)
        rows["outcome"] = rng.choice(["TP", "FP", "FN"], 30)
        rows["n_samples"] = 50
        rows["converged"] = None
        store.write_part(
            folder,
            ScanName(f"{number:04d}", "1"),
            rows,
            model="0123456789abcdef",
            method="smoothgradmean",
            instances=[f"{n:012x}" for n in range(30)],
        )
    print(f"wrote {scans} parts in {time.perf_counter() - started:.1f} s")
    parts = store.cohort_parts(folder)
    print(f"{sum(p.stat().st_size for p in parts) / 1e6:.1f} MB in {len(parts)} parts")
    for what, call in (
        ("all columns", lambda: store.read_cohort(folder)),
        ("three columns", lambda: store.read_cohort(folder, columns=["scan", "outcome", "peak_FLAIR"])),
        ("group step", lambda: run_group(folder)),
        ("one file", lambda: pd.read_parquet(folder / "study" / "cohort.parquet")),
    ):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        print(
            f"{what}: {time.perf_counter() - wall:.1f} s ({time.process_time() - cpu:.1f} s of CPU), "
            f"peak memory so far {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
        )
    print(f"cohort.parquet {(folder / 'study/cohort.parquet').stat().st_size / 1e6:.1f} MB")


def overhead(units: int, scheduler: str | None) -> None:
    """Empty units: what each engine costs by itself, then what claims, keys and receipts add."""
    from lesionwise.cohort.engines import DaskCluster, InProcess, LocalProcesses

    def timed(engine) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        done = sum(1 for _ in engine.run(list(range(units)), abs))
        _say(f"{done} empty units on {engine.description}", wall, cpu, units)

    if scheduler is not None:
        timed(DaskCluster(scheduler))
        return
    timed(InProcess())
    timed(LocalProcesses(2))
    with _local_dask() as address:
        timed(DaskCluster(address))
    with tempfile.TemporaryDirectory() as folder:
        bookkeeping(Path(folder), units)


def bookkeeping(folder: Path, units: int) -> None:
    """Everything but the science: scans of empty files found, claimed, hashed, noted as finished, and found finished."""
    from lesionwise.attribution import SmoothGrad
    from lesionwise.cohort import run_cohort
    from lesionwise.models.reference import ModelRef
    from lesionwise.study.participant import make_tasks
    from lesionwise.study.plan import plan_study
    from lesionwise.units import Settings

    bids, out = folder / "bids", folder / "out"
    for number in range(units):
        anat = bids / f"sub-{number:05d}" / "anat"
        anat.mkdir(parents=True)
        for channel in ("FLAIR", "T1w"):
            (anat / f"sub-{number:05d}_{channel}.nii.gz").write_bytes(b"")
    wall, cpu = time.perf_counter(), time.process_time()
    plan = plan_study(bids, out, channels=("FLAIR", "T1w"))
    tasks = make_tasks(plan, model=ModelRef("none", "0" * 24), settings=Settings(method=SmoothGrad()))
    _say(f"{len(tasks)} scans found in the data set", wall, cpu, units)
    for what in ("claimed, hashed and noted as finished", "found finished"):
        wall, cpu = time.perf_counter(), time.process_time()
        run_cohort([task.unit for task in tasks], unit_fn=_empty_scan)
        _say(f"{len(tasks)} scans {what}", wall, cpu, units)


def _empty_scan(unit):
    """A unit as it runs, without images and network."""
    from lesionwise.cohort.unit import run_unit

    part = unit.out / "lesions.parquet" / f"{unit.name.stem}.parquet"
    return run_unit(replace(unit, run_fn=partial(_touch, part), sound_fn=part.is_file))


def _touch(path):
    from lesionwise.cohort.unit import UnitResult

    path.parent.mkdir(exist_ok=True)
    path.touch()
    return UnitResult([])


@contextmanager
def _local_dask():
    """A scheduler and two worker processes here; yields its address."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def _say(what: str, wall: float, cpu: float, units: int) -> None:
    """One line: wall and processor time since the marks, per unit, and as a share of a unit of a minute."""
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    each = 1000 * wall / units
    print(f"{what}: {wall:.1f} s, {each:.2f} ms each ({each / 600:.4f} % of 60 s; {cpu:.1f} s of CPU here)", flush=True)


def _clock(device: str) -> float:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def main() -> None:
    """Picks a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["passes", "table", "overhead", "extrapolate"])
    parser.add_argument("values", nargs="*")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scans", type=int, default=4000)
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--scheduler")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    if chosen.what == "passes":
        passes(chosen.device, chosen.repeats)
    elif chosen.what == "table":
        table(Path(chosen.values[0]), chosen.scans)
    elif chosen.what == "overhead":
        overhead(chosen.units, chosen.scheduler)
    else:
        print("\n".join(extrapolate(*map(float, chosen.values))))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
