# Do different offline reasoning losses make the same weight update? One study, one DAG. See README.md.
from snakemake.utils import min_version

min_version("9.27")


configfile: "config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/base.smk"
include: "workflow/rules/rollouts.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/geometry.smk"
include: "workflow/rules/connectivity.smk"
include: "workflow/rules/representations.smk"
include: "workflow/rules/report.smk"


rule all:
    """The whole study: tables, figures, the summary that puts them together, and where all of it came from."""
    default_target: True
    input:
        f"{RESULTS}/summary.md",
        TABLES,
        FIGURES,
        f"{RESULTS}/provenance.json",
