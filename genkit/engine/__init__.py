"""The engine: one adversarial game, played.

training     a whole run: set up, played, looked at, saved
game         players and their updates, how far they are, and all of it as tensors and plain data
players      one module per player whose forward is the whole loss of an update
estimators   how the critics' scores reach the generator: through samples, relaxations or rewards
optimizers   optimisers from settings, constraints after their steps
averages     averaged weights of a generator, and the batch statistics that belong to them
plan         the fastest way to compute a game on this machine
clock        when a run reports, logs, looks, saves and stops
diagnosis    what is wrong with a game, in plain words
data         the data of a run: opened, checked, and endless seeded batches of them
run_folder   the run on disk: configuration, checkpoints, log
"""
