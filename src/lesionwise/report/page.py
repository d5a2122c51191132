"""The report of one scan: one HTML file that holds everything it shows and asks for nothing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lesionwise import __version__
from lesionwise.charts import palette
from lesionwise.geometry.volume import ScanName
from lesionwise.io.derivative import ScanFiles
from lesionwise.io.files import write_text
from lesionwise.report.content import scene_content
from lesionwise.report.payload import Blob, Store
from lesionwise.report.privacy import without_paths
from lesionwise.report.scene import ScanView, read_scene
from lesionwise.report.settings import method_words, settings_in_words
from lesionwise.report.verdicts import judge, note
from lesionwise.report.viewer import asset, json_markup, niivue, packed, policy, script, templates

SCRIPTS = ("data.js", "planes.js", "charts.js", "review.js", "lesions.js", "look.js", "render.js", "app.js")

HALVED = (
    "To keep this file small its images are shown at half resolution; lesions and maps are not. `lesionwise serve` shows "
    "everything in full."
)

CITATION = (
    "Spagnolo et al., Scientific Reports 2026",
    "https://doi.org/10.1038/s41598-026-36560-9",
)


def write_scan_report(
    out_dir: Path | str, name: ScanName, path: Path | str | None = None, cohort: pd.DataFrame | None = None
) -> Path:
    """Writes the page of one finished scan and returns its path.

    Without `path` the page lies beside the scan's other files (`<stem>_report.html`). `cohort` holds the lesions of all
    scans: the page then also says where each lesion stands among them. Raises InputError if the scan is not finished.
    """
    scene = read_scene(Path(out_dir), name)
    target = scan_report_path(Path(out_dir), name) if path is None else Path(path)
    write_text(target, render_scan(scene, cohort=cohort))
    return target


def scan_report_path(out_dir: Path, name: ScanName) -> Path:
    """`OUT/sub-X/[ses-Y/]anat/<stem>_report.html`."""
    return ScanFiles(Path(out_dir), name).path("report.html")


def render_scan(
    scene: ScanView,
    *,
    cohort: pd.DataFrame | None = None,
    address_fn: Callable[[str], str] | None = None,
    blobs: dict[str, Blob] | None = None,
) -> str:
    """The page's HTML. With `address_fn` its arrays stay outside, at the addresses that it gives for their keys, and are
    left in `blobs`."""
    store = Store({} if blobs is None else blobs, address_fn)
    content = scene_content(scene, store, cohort=cohort)
    halved = any(each["step"] > 1 for each in content["volumes"]["images"].values())
    notes = [*scene.facts.get("Notes", ()), *scene.notes, *([HALVED] if halved else [])]
    scripts = [script(each) for each in SCRIPTS]
    library = niivue()
    counts = scene.lesions["outcome"].fillna("n/a").value_counts()
    return (
        templates()
        .get_template("scan.jinja")
        .render(
            title=scene.name.stem,
            style=asset("style.css"),
            scripts=scripts,
            policy=policy([*scripts, library], served=address_fn is not None),
            content=json_markup(content),
            blobs={} if address_fn is not None else {key: blob.text for key, blob in store.blobs.items()},
            library=packed(str(library.markup)),
            outcomes=[(key, palette.OUTCOMES[key], int(counts[key])) for key in palette.OUTCOMES if key in counts],
            lesion_count=len(scene.lesions),
            channels=scene.channels,
            shown=tuple(scene.images),
            model=model_facts(scene.facts),
            facts=settings(scene),
            notes=[without_paths(each) for each in notes],
            scan_notes=_scan_notes(scene),
            cautions=[] if scene.triage is None else [without_paths(note(each)) for each in scene.triage.notes],
            judge="" if scene.triage is None else judge(scene.triage.model),
            look=None if scene.triage is None or scene.triage.look_here is None else len(scene.likely_misses),
            served=address_fn is not None,
            citation=CITATION,
            version=__version__,
        )
    )


def _scan_notes(scene: ScanView) -> list[str]:
    """What holds of every map of the scan, said once."""
    if not scene.descs:
        return []
    first = next((scene.saliency(label, desc) for label, desc in scene.map_files if desc == scene.descs[0]), None)
    if first is None or first.provenance.get("Quantitative", True):
        return []
    return [f"{method_words(scene.descs[0])} maps locate but do not measure: their values have no unit."]


def model_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Name, short hash and card of the model that was explained, as sentences without paths."""
    model = facts.get("Model", {})
    model = model if isinstance(model, Mapping) else {"Name": str(model)}
    lowered = {str(key).lower(): value for key, value in model.items()}
    card = lowered.get("card", {})
    card = card if isinstance(card, Mapping) else {"Card": card}
    return {
        "name": without_paths(str(lowered.get("name", "n/a"))),
        "hash": str(lowered.get("fingerprint", ""))[:12],
        "card": [(str(key), without_paths(_shown(value))) for key, value in card.items()],
    }


def settings(scene: ScanView) -> list[tuple[str, str]]:
    """How the first method's maps were made, in words."""
    for label, desc in scene.map_files:
        if desc == (scene.descs or ("",))[0]:
            saliency = scene.saliency(label, desc)
            if saliency is not None:
                told = settings_in_words({"Units": saliency.units, **saliency.provenance})
                return [(what, without_paths(how)) for what, how in told]
    return []


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(each)}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        text = ", ".join(_shown(each) for each in value[:6])
        return text + (", …" if len(value) > 6 else "")
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)[:600]
