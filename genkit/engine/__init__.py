"""Training: one adversarial game, from its configuration to its checkpoints.

training       a whole run: setup, the loop, evaluations, checkpoints, resuming
game           the players, their updates and all counters; the whole state as tensors and plain data
players        one module per player; its forward computes the whole loss of one update
estimators     how the critics' scores reach the generator: through samples, relaxations or rewards
optimizers     optimisers from settings; weight constraints after their steps
averages       averaged weights (EMA) of a generator, and the BatchNorm statistics that belong to them
plan           the fastest way to compute a game on this machine: precision, memory format, threads
teacher        what a generator learns from a finished model, by its samples of the same noise
fine_tuning    a game that starts from another model, or learns from one: its settings and weights
distillation   a run that learns from another model, whose settings it takes over
clock          when a run reports, logs, evaluates its samples, saves and stops
diagnosis      collapse, saturation and memorisation, detected from samples and statistics
data           opens and checks the data of a run; endless seeded batches of them
compatibility  whether recipe, networks and data fit together
views          the model and the preview conditions of a game, read without changing it
run_folder     the run on disk: configuration, checkpoints, log
"""
