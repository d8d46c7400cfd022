"""Synchronous data parallelism on TensorFlow's own runtime: each worker has its part of every minibatch.

Gradients are averaged by one collective all-reduce of one flat vector for each optimiser: what is computed from the
mean (the update, whether it is skipped, the averaged generator) is then the same on every worker to the bit. The joint
batch is dealt out with a stride, worker i of n taking x[i::n], so that the groups of the minibatch standard deviation
stay those that one worker would form. Sums of floats apart, n workers take the steps of one with the joint batch, but
for the Hessian Penalty's maximum: that is taken on each worker's part, and the maxima are averaged, as published.

With one worker nothing of this exists: no server is started, and the graph is that of a single process.
"""

import contextlib
import signal

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.ops import collective_ops

from experiment_utils.errors import Interrupted, OptionError, TrainingError
from progan import launch
from progan.heartbeat import Heartbeat
from progan.inference import session_config

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
GROUP_KEY = 1  # names the group of all workers

# What TensorFlow raises, by version and moment, when the other end of a collective has gone.
_BROKEN_OFF = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)


class Workers:
    """The workers of a training as one of them sees them: all build the same graphs and make the same calls in step.

    count, index  how many, and which one this is      chief  whether it is the one that writes files
    part          slice: the samples of a joint batch that are this worker's
    """

    def __init__(self, cluster=None, num_gpus=0, num_threads=0):
        self.count, self.index = (1, 0) if cluster is None else (len(cluster), cluster.index)
        self.chief, self.part = self.index == 0, slice(self.index, None, self.count)
        self._cluster, self._heartbeat = cluster, None
        self._config = session_config(num_gpus, num_threads)
        self._device, self._target, self._instance_key = None, "", 0

    @contextlib.contextmanager
    def together(self, settings, timeout, silence):
        """Within the block the workers are connected, and the loss of one ends all (see heartbeat.py).

        settings  {name: JSON value} that must be the same on all workers
        timeout   seconds to wait for the others at the start
        silence   seconds without a sign of life after which a worker counts as lost

        Raises OptionError, TrainingError where the others are not there, or not the same. What leaves the block as an
        exception ends the other workers too.
        """
        if self.count == 1:
            yield self
            return
        self._heartbeat = Heartbeat(self._cluster, settings, timeout, silence, launch.leave, launch.supervisor())
        try:
            self._heartbeat.meet()
            self._start_server()
            self._heartbeat.ready()
            yield self
        except Interrupted:  # by agreement: none is missing
            self._heartbeat.close()
            raise
        except BaseException as error:
            problem = " ".join(str(error).split()) or type(error).__name__
            self._heartbeat.close(f"{self._cluster.name(self.index)} ended: {problem}")
            raise
        self._heartbeat.close()

    def _start_server(self):
        job = "/job:worker/replica:0/task:"
        # Without a leader who assigns the keys of collectives both TensorFlow versions hang. A session that is not told
        # to look at its own worker alone would wait for the devices of all.
        self._config.experimental.collective_group_leader = f"{job}0"
        self._config.device_filters.append(f"/job:worker/task:{self.index}")
        addresses = tf.train.ClusterSpec({"worker": list(self._cluster.addresses)})
        try:
            self._server = tf.distribute.Server(addresses, "worker", self.index, config=self._config)
        except tf.errors.OpError:
            raise OptionError(
                f"TF_CONFIG: {self._cluster.name(self.index)}: TensorFlow cannot use that TCP port here"
            ) from None
        self._target, self._device = self._server.target, f"{job}{self.index}"
        with tf.Graph().as_default() as graph, self.device():
            self._signals = tf.placeholder(tf.float32, [len(STOP_SIGNALS)])
            self._all_signals = self._all_reduce(self._signals, "Id")
            self._agreement = self.session(graph)

    # ------------------------------------------------------------------------------------------------------------------
    # Graphs and sessions

    def device(self):
        """Return the context in which this worker's graphs are built."""
        return tf.device(self._device)

    def session(self, graph):
        return tf.Session(self._target, graph=graph, config=self._config)

    def run(self, session, fetches, feed=None):
        """Run a graph that holds collectives: session.run, which returns when all workers have come so far."""
        if self.count == 1:
            return session.run(fetches, feed)
        try:
            return session.run(fetches, feed)
        except _BROKEN_OFF as error:
            self._heartbeat.wait_for_verdict()  # ends the process, if a worker is lost
            raise TrainingError(f"the workers lost each other: {error.message.splitlines()[0]}") from None

    def mean(self, tensors):
        """Return the means over all workers of float32 tensors of known shapes, by one collective."""
        if self.count == 1:
            return tensors
        shapes = [[int(size) for size in tensor.shape] for tensor in tensors]
        sizes = [int(np.prod(shape)) for shape in shapes]
        flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)
        parts = tf.split(self._all_reduce(flat, "Div"), sizes)
        return [tf.reshape(part, shape) for part, shape in zip(parts, shapes)]

    def broadcast(self, session, variables):
        """Set float32 variables to the values of worker 0, by one collective; call within their graph."""
        if self.count == 1 or not variables:
            return
        values = [tf.reshape(variable.read_value(), [-1]) for variable in variables]
        flat = tf.concat(values, axis=0)
        flat = self._all_reduce(flat if self.chief else tf.zeros_like(flat), "Id")
        parts = tf.split(flat, [int(value.shape[0]) for value in values])
        assignments = [v.assign(tf.reshape(part, v.shape)) for v, part in zip(variables, parts)]
        self.run(session, tf.group(*assignments))

    def agree(self, number=None):
        """Wait for all workers. Returns the stop signal that any of them has received (`number`), or None."""
        if self.count == 1:
            return number
        mine = [float(number == each) for each in STOP_SIGNALS]
        received = self.run(self._agreement, self._all_signals, {self._signals: mine})
        return max((int(each) for each, votes in zip(STOP_SIGNALS, received) if votes), default=None)

    def _all_reduce(self, vector, final):
        """Return the sum over all workers ('Id'), or their mean ('Div').

        TensorFlow knows a collective by its key, for the life of the process: so all workers must build theirs in the
        same order. It runs on the CPU, where the ring passes through the network anyway.
        """
        self._instance_key += 1
        with tf.device(f"{self._device}/device:CPU:0"):
            return collective_ops.all_reduce(
                tf.identity(vector), self.count, GROUP_KEY, self._instance_key, "Add", final, subdiv_offsets=(0,)
            )
