"""What each job of the workflow does beside its work: code digest, provenance, end with its Snakemake."""
