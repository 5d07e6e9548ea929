# The study as a DAG: phantoms -> training stores -> one papermill run of 02_train a line of study.yaml -> tables, figures.
# `make study` runs it; whatever stands is not made again, and a run that was cut off goes on where it stopped.
import json
import sys


configfile: "study.yaml"


STUDY, DATA, RUNS = config["study"], config["data"], config["runs"]
RESULTS = f"results/{STUDY}"
CASES = [f"mini_{seed:04d}" for seed in range(config["phantoms"])]
PYTHON = sys.executable
PAPERMILL = f"{PYTHON} -m papermill --no-progress-bar"


rule all:
    input:
        # Not the tables, which are committed: with these there would be nothing to do in a fresh clone.
        [f"{RESULTS}/runs/{run}/scores.csv" for run in RUNS],
        f"{RESULTS}/figures/tree.html",


rule phantoms:
    output:
        [directory(f"{DATA}/raw/{case}") for case in CASES],
    shell:
        "{PYTHON} -m airwaylib phantom {DATA}/raw --size mini --seed 0 --cases {config[phantoms]}"


rule prepare:
    input:
        rules.phantoms.output,
    output:
        [directory(f"{DATA}/prepared/{case}.zarr") for case in CASES],
    shell:
        "{PYTHON} -m airwaylib prepare phantom {DATA}/raw --output {DATA}"


rule train:
    input:
        rules.prepare.output,
        notebook="notebooks/02_train.ipynb",
    output:
        f"{RESULTS}/runs/{{run}}/scores.csv",
    params:
        yaml=lambda wildcards: json.dumps({"study": STUDY, "data": DATA, "run": wildcards.run, **RUNS[wildcards.run]}),
        executed=f"{RESULTS}/notebooks/02_train_{{run}}.ipynb",
    threads: workflow.cores  # a run uses every core: one after the other
    shell:
        "mkdir -p {RESULTS}/notebooks && {PAPERMILL} --log-output {input.notebook} {params.executed} -y {params.yaml:q}"


rule figures:
    input:
        [f"{RESULTS}/runs/{run}/scores.csv" for run in RUNS],
        notebook="notebooks/04_figures.ipynb",
    output:
        f"{RESULTS}/tables/scores.csv",
        f"{RESULTS}/tables/scores_by_case.csv",
        f"{RESULTS}/tables/scores_by_diameter.csv",
        f"{RESULTS}/tables/comparison.csv",
        f"{RESULTS}/tables/runs.csv",
        multiext(f"{RESULTS}/figures/predictions", ".png", ".svg"),
        multiext(f"{RESULTS}/figures/scores_by_diameter", ".png", ".svg"),
        multiext(f"{RESULTS}/figures/tree", ".png", ".svg", ".html"),
    params:
        yaml=json.dumps({"study": STUDY, "runs": list(RUNS)}),
    shell:
        "{PAPERMILL} {input.notebook} {RESULTS}/notebooks/04_figures.ipynb -y {params.yaml:q}"
