"""Airflow in its own environment: loads a folder of DAGs, and runs one of them with the given params."""

import json
import sys

from airflow.dag_processing.dagbag import DagBag

folder, dag, params = sys.argv[1:]
# As its own processor of DAGs does.
sys.path.append(folder)
bag = DagBag(dag_folder=folder)
said = {"errors": bag.import_errors, "dags": sorted(bag.dags), "state": None, "tasks": {}}
if dag in bag.dags:
    run = bag.dags[dag].test(run_conf=json.loads(params))
    said["state"] = str(run.state)
    said["tasks"] = {one.task_id: str(one.state) for one in run.get_task_instances()}
sys.stdout.write("\n" + json.dumps(said) + "\n")
