"""All pages of an output folder."""

from pathlib import Path

from lesionwise.errors import InputError
from lesionwise.io.written import require_usable
from lesionwise.report.group import cohort_table, write_group_report
from lesionwise.report.page import write_scan_report


def write_reports(
    out_dir: Path, *, experiments: Path | None = None, left_out: dict[str, str] | None = None
) -> list[Path]:
    """The pages of every finished scan and `OUT/report.html`: the scan's own page if it is the only one, else the
    cohort's, with the findings below `experiments` (`OUT/experiments`).

    Scans whose files are damaged are put into `left_out` by name with the reason; their page of an earlier time is taken
    away, and the others get theirs. Raises InputError if no scan can be used.
    """
    out_dir, unusable = Path(out_dir), {} if left_out is None else left_out
    usable, damaged = require_usable(out_dir)
    unusable |= {one.name.stem: one.reason for one in damaged}
    alone = len(usable) + len(damaged) == 1
    cohort = None if alone else cohort_table(out_dir)
    pages = []
    for scan in usable:
        try:
            pages.append(write_scan_report(out_dir, scan.name, out_dir / "report.html" if alone else None, cohort))
        except InputError as error:
            unusable[scan.name.stem] = str(error)
            if alone:
                raise
    return pages if alone else [*pages, write_group_report(out_dir, experiments=experiments)]
