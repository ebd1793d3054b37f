"A run in a process of its own, which a test can kill."

import multiprocessing
import os
import sys

from reasoning_distill.pipeline import configured, run


def quietly(config):
    sys.stderr = sys.stdout = open(os.devnull, "w")
    run(configured(config), say=lambda line: None)


def start(config):
    "Forked from a process that has the package loaded and no threads: one with threads may leave its child a lock that nobody gives back."
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["apart", "transformers.models.llama.modeling_llama", "openai.resources.chat"])
    child = context.Process(target=quietly, args=(config,))
    child.start()
    return child
