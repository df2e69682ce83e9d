"""A script beside the DAG that imports what lies beside it."""

import json

import commands_model

with open("out.json", "w") as file:
    json.dump(commands_model.fit(), file)
