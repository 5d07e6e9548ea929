# The study as a DAG, for `airwaylib reproduce PRESET`: phantoms and their training stores -> one papermill run of 02_train a
# variant and seed -> the toy (00), gradients (01), results and claims (03), exhibits (04), explorer (05) -> report. Whatever stands is not made
# again, and a run that was cut off is resumed.
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


def executed(name):
    """The command that runs a notebook with the rule's params.yaml; its executed copy and its log go to the results."""
    run = f"PYTHON={PYTHON} sh scripts/run_notebook.sh notebooks/{name}.ipynb {RESULTS}/notebooks/{name}.ipynb"
    return run + " {params.yaml:q}"


def ends(runs):
    return [PRESET.result(run) for run in runs]


SCORED = PRESET.scored_runs()  # the others are only built on
DONE = [run for run in SCORED if all(map(os.path.exists, ends([run])))]  # for `report`: what stands when it starts
GRADIENTS = PRESET.gradient_parameters(DONE)  # None: 01 is left out


def shown(*names):
    """The variants that figures show, as those of a notebook's parameters that are called so."""
    return {name: value for name, value in PRESET.figure_parameters(DONE).items() if name in names}


localrules:
    runs,
    report,


rule runs:
    input:
        ends(WANTED),


rule report:
    input:
        f"{RESULTS}/tables/tube_erosion.csv",
        f"{RESULTS}/tables/claims.csv",
        f"{RESULTS}/figures/tree.html",
        [f"{RESULTS}/gradient_explorer.html"] if GRADIENTS else [],
        notebook="notebooks/report.ipynb",
    output:
        f"{RESULTS}/report.html",
    shell:
        "{PYTHON} -m airwaystudy report {PRESET.study}"


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
            ancient(ends(PRESET.needed(run))),
            notebook=ancient("notebooks/02_train.ipynb"),
        output:
            PRESET.result(run),
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
            # glibc hands every large buffer back to the system at once, and asks for it anew a step later: 7 % of a mini's.
            " export MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=4000000000;"
            " {PAPERMILL} --log-output {input.notebook} {params.executed} -y {params.yaml:q} > {params.folder}/log.txt 2>&1"
            " || {{ grep -v '^ *$' {params.folder}/log.txt | tail -n 1 > {params.folder}/failed.txt; exit 1; }}"


rule gradients:
    input:
        ends(DONE),
        notebook="notebooks/01_gradient_erosion.ipynb",
    output:
        f"{RESULTS}/gradients/measures.csv",
    params:
        yaml=json.dumps(GRADIENTS),
    threads: workflow.cores
    shell:
        executed("01_gradient_erosion")


rule explorer:
    input:
        rules.gradients.output,
        notebook="notebooks/05_explore_gradients.ipynb",
    output:
        f"{RESULTS}/gradient_explorer.html",
    params:
        yaml=json.dumps({"study": PRESET.study}),
    shell:
        executed("05_explore_gradients")


rule idea:
    input:
        notebook="notebooks/00_idea.ipynb",
    output:
        f"{RESULTS}/tables/tube_erosion.csv",
    params:
        yaml=json.dumps({"study": PRESET.study}),
    shell:
        executed("00_idea")


rule results:
    input:
        ends(DONE),
        [f"{RESULTS}/gradients/measures.csv"] if GRADIENTS else [],
        notebook="notebooks/03_results.ipynb",
    output:
        f"{RESULTS}/tables/ablation.csv",
        f"{RESULTS}/tables/scores_by_diameter.csv",
        f"{RESULTS}/tables/claims.csv",
    params:
        yaml=json.dumps({"study": PRESET.study, "runs": SCORED, "planned": planned_variants(NAME)} | shown("compared", "curves")),
    threads: workflow.cores
    shell:
        executed("03_results")


rule exhibits:
    input:
        ends(DONE),
        f"{RESULTS}/tables/ablation.csv",
        f"{RESULTS}/tables/scores_by_diameter.csv",
        [f"{RESULTS}/gradients/measures.csv"] if GRADIENTS else [],
        notebook="notebooks/04_exhibits.ipynb",
    output:
        f"{RESULTS}/figures/tree.html",
    params:
        yaml=json.dumps({"study": PRESET.study, "runs": SCORED} | shown("baseline", "ours", "compared")),
    threads: workflow.cores
    shell:
        executed("04_exhibits")
