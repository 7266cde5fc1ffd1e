"""`python -m hvd_yolo.plan --run runs/exp --link 10GbE`: images a second, hours and the best
compression on 1 to 1024 ranks, predicted from the update of one."""

import json
from collections.abc import Sequence

from hvd_yolo import cli
from hvd_yolo.checkpoint import save_text
from hvd_yolo.config import parse
from hvd_yolo.config.plan_verb import PlanConfig
from hvd_yolo.plan import showing
from hvd_yolo.plan.inputs import (
    assumptions,
    find_step,
    job_sizes,
    make_cluster,
    make_work,
    predict_all,
)


def main(argv: Sequence[str]) -> None:
    """Prints what is assumed and a table; writes JSON and a plot where asked."""
    config = parse(PlanConfig, argv, "hvd_yolo.plan")
    step = find_step(config)
    cluster = make_cluster(config, step)
    work = make_work(config, step)
    sizes = job_sizes(config.ranks)
    predictions = predict_all(config, step, work, cluster, sizes)
    plan = showing.Plan(work, cluster, predictions, step.num_images, step.epochs, config.sync_every)
    said = assumptions(config, step, work, cluster)
    print(said)
    print(showing.table(plan))
    if config.json:
        content = {
            "assumed": said.splitlines(),
            "predictions": showing.rows(plan),
        }
        with cli.output_file("json", config.json) as file:
            save_text(file, json.dumps(content, indent=1) + "\n")
    if config.plot:
        with cli.output_file("plot", config.plot) as file:
            showing.draw(plan, file)


if __name__ == "__main__":
    cli.run(main)
