# Do different offline reasoning losses make the same weight update? One study, one DAG. See README.md.
import os

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.27")


if not os.path.isfile("config.yaml"):
    raise WorkflowError(
        f"{os.getcwd()} is not the project's folder: run snakemake there, or with --directory {workflow.basedir}"
    )


configfile: "config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/arguments.smk"
include: "workflow/rules/reporting.smk"
include: "workflow/rules/problems.smk"
include: "workflow/rules/toy.smk"
include: "workflow/rules/rollouts.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/online.smk"
include: "workflow/rules/derived.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/geometry.smk"
include: "workflow/rules/report.smk"


# each measure's rule is in the file of its name
for name in MEASURES:

    include: f"workflow/rules/{name}.smk"


rule all:
    """The whole study: tables, figures, the summary and the page that put them together, and where all came from."""
    default_target: True
    input:
        f"{RESULTS}/summary.md",
        DETAILS,
        TABLES,
        ACROSS,
        FIGURES,
        f"{RESULTS}/provenance.json",
        f"{RESULTS}/report.html",
