#!/usr/bin/env bash
# Test with several processes on one or more machines.
#   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]
# On machines without a GPU, GPUS is the number of CPU processes.
# Several machines: the same command on each, with NNODES, NODE_RANK,
# MASTER_ADDR and PORT in the environment.
exec bash "$(dirname "$0")/misc/launch.sh" test.py 2 "$@"
