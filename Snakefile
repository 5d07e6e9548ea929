# The study as a DAG, for `airwaylib reproduce PRESET`: phantoms and their training stores -> one papermill run of 02_train a
# variant and seed -> gradients (01) -> ablations (03) -> figures, claims and report (04). Whatever stands is not made again, and a run that
# was cut off goes on where it stopped.
#
# Two targets, one after the other: `runs`, of which some may fail, and `report`, made of those that are done.
import json
import sys

from airwaystudy.plan.presets import planned_variants, read_preset

NAME = config.get("preset", "quick")
PRESET = read_preset(NAME)
RUNS = PRESET.settings_by_run()
CASES = [case for names in PRESET.cases().values() for case in names] if PRESET.phantoms else []  # to be made
WANTED = config["runs"].split(",") if config.get("runs") else list(RUNS)
RESULTS = f"results/{PRESET.study}"
PYTHON = sys.executable
PAPERMILL = f"{PYTHON} -m papermill --no-progress-bar"


# What a notebook says goes to a log beside it; its last lines are shown where it fails.
QUIETLY = (
    "mkdir -p {{RESULTS}}/notebooks && {{PAPERMILL}} {{input.notebook}} {{RESULTS}}/notebooks/{name}.ipynb"
    " -y {{params.yaml:q}} > {{RESULTS}}/notebooks/{name}.log 2>&1"
    " || {{{{ tail -n 3 {{RESULTS}}/notebooks/{name}.log >&2; exit 1; }}}}"
)


def scores(runs):
    return [f"{RESULTS}/runs/{run}/scores.csv" for run in runs]


DONE = [run for run in RUNS if all(map(os.path.exists, scores([run])))]  # for `report`: what stands when it starts
GRADIENTS = PRESET.gradient_parameters(DONE)  # None: 01 is left out


localrules:
    runs,
    report,


rule runs:
    input:
        scores(WANTED),


rule report:
    input:
        f"{RESULTS}/report.html",


rule case:  # a phantom and its training store
    output:
        directory(f"{PRESET.data}/prepared/{{case}}.zarr"),
    shell:
        "{PYTHON} -c \"from airwaystudy.data.datasets import prepare_phantoms; prepare_phantoms('{PRESET.data}', ['{wildcards.case}'])\""


# A rule a run, since Snakemake gives priorities to rules: seed by seed, in the order of study.yaml, so that what is there when
# one stops can be compared.
for rank, run in enumerate(RUNS):
    folder = f"{RESULTS}/runs/{run}"

    rule:
        name:
            f"train_{run}"
        input:
            # Ancient: a run that is done stands, whatever has been touched since; its folder refuses other settings.
            ancient([f"{PRESET.data}/prepared/{case}.zarr" for case in CASES]),
            ancient(scores(PRESET.needed(run))),
            notebook=ancient("notebooks/02_train.ipynb"),
        output:
            f"{folder}/scores.csv",
        params:
            yaml=json.dumps(RUNS[run]),
            folder=folder,
            executed=f"{RESULTS}/notebooks/02_train_{run}.ipynb",
        priority: len(RUNS) - rank
        threads: PRESET.threads
        resources:
            gpu=PRESET.gpus,
        shell:
            # The last line that a run says when it fails is kept beside it, for the report.
            "mkdir -p {RESULTS}/notebooks {params.folder} && rm -f {params.folder}/failed.txt;"
            " export OMP_NUM_THREADS={threads};"
            " {PAPERMILL} --log-output {input.notebook} {params.executed} -y {params.yaml:q} > {params.folder}/log.txt 2>&1"
            " || {{ grep -v '^ *$' {params.folder}/log.txt | tail -n 1 > {params.folder}/failed.txt; exit 1; }}"


rule gradients:
    input:
        scores(DONE),
        notebook="notebooks/01_gradient_erosion.ipynb",
    output:
        f"{RESULTS}/gradients/measures.csv",
    params:
        yaml=json.dumps(GRADIENTS),
    threads: workflow.cores
    shell:
        QUIETLY.format(name="01_gradient_erosion")


rule ablations:
    input:
        scores(DONE),
        notebook="notebooks/03_ablations.ipynb",
    output:
        f"{RESULTS}/tables/ablation.csv",
        f"{RESULTS}/tables/effects.csv",
    params:
        yaml=json.dumps({"study": PRESET.study, "runs": list(RUNS), "planned": planned_variants(NAME)}),
    shell:
        QUIETLY.format(name="03_ablations")


rule figures:
    input:
        scores(DONE),
        f"{RESULTS}/tables/ablation.csv",
        [f"{RESULTS}/gradients/measures.csv"] if GRADIENTS else [],
        notebook="notebooks/04_figures.ipynb",
    output:
        f"{RESULTS}/report.html",
    params:
        yaml=json.dumps(PRESET.figure_parameters(DONE) | {"study": PRESET.study, "runs": list(RUNS)}),
    threads: workflow.cores
    shell:
        QUIETLY.format(name="04_figures")
