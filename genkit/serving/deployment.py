"""The application as a deployment of Ray Serve: replicas, routing and scaling are Ray's, batches stay ours.

    serve run genkit.serving.deployment:application models='{"faces": "/models/faces"}' replicas=2

A replica is one server of `create_app`, with a queue of its own. Ray replaces one that dies, and answers what it had
accepted with an error of its own; `genkit.Client` then asks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import yaml
from ray import serve
from ray.serve import Application

from genkit import config
from genkit.serving.app import create_app
from genkit.serving.settings import ServeSettings


def deployment(settings: ServeSettings, replicas: int | str = 1, **options: Any) -> Application:
    """The deployment of a server, for `ray.serve.run`.

    Args:
        settings: of the server; its models are folders that all machines can read.
        replicas: how many, or `auto`: as many as the load asks for.
        options: further ones of `ray.serve.deployment`, such as `ray_actor_options={"num_gpus": 1}`.
    """
    # Ray must hand on at least as many requests as we accept: else our batches never fill (ray#43288).
    own = {
        "max_ongoing_requests": settings.max_requests,
        "graceful_shutdown_timeout_s": settings.timeout_seconds,
    }

    @serve.deployment(name="genkit", num_replicas=replicas, **{**own, **options})
    @serve.ingress(lambda: create_app(settings))
    class Replica:
        pass

    bound: Application = cast(Any, Replica).bind()
    return bound


def application(arguments: Mapping[str, Any]) -> Application:
    """The deployment that arguments of `serve run`, or of a configuration file of Ray Serve, describe.

    Args:
        arguments: `replicas`, and settings of `ServeSettings`; texts are read as YAML.
    """
    values = {
        name: yaml.safe_load(value) if isinstance(value, str) else value
        for name, value in arguments.items()
    }
    replicas = values.pop("replicas", 1)
    return deployment(config.validate(ServeSettings, values, ""), replicas)
