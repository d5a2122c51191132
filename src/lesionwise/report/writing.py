"""All pages of an output folder."""

from pathlib import Path

from lesionwise.errors import InputError
from lesionwise.io.derivative import list_scans
from lesionwise.report.group import cohort_table, write_group_report
from lesionwise.report.page import write_scan_report


def write_reports(out_dir: Path, *, experiments: Path | None = None) -> list[Path]:
    """The pages of every finished scan and `OUT/report.html`: the scan's own page if it is the only one, else the
    cohort's, with the findings below `experiments` (`OUT/experiments`). Raises InputError if no scan is finished.
    """
    names = list_scans(Path(out_dir))
    if not names:
        raise InputError(f"Expected finished scans in {out_dir}, found none.")
    if len(names) == 1:
        return [write_scan_report(out_dir, names[0], Path(out_dir) / "report.html")]
    cohort = cohort_table(Path(out_dir))
    pages = [write_scan_report(out_dir, name, cohort=cohort) for name in names]
    return [*pages, write_group_report(out_dir, experiments=experiments)]
