"""Several processes as one program: start-up, and who speaks for all."""

import jax


def start(spec: str = "") -> None:
    """Joins the processes of one run; call before any other use of jax.

    spec: "" for a single process; "auto" asks the cluster (Cloud TPU, SLURM, Open MPI,
      GKE); or "host:port,num_processes,process_id" by hand.
    """
    if not spec:
        return
    # Processes on CPUs talk through Gloo; the setting is for no other device.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if spec == "auto":
        try:
            jax.distributed.initialize()
        except ValueError as error:
            raise ValueError(
                f"--distributed=auto: no cluster was recognised ({error}); give "
                "--distributed=host:port,num_processes,process_id"
            ) from None
        return
    parts = spec.split(",")
    if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()):
        raise ValueError(
            f"--distributed={spec}: give 'auto' or host:port,num_processes,process_id"
        )
    jax.distributed.initialize(parts[0], int(parts[1]), int(parts[2]))


def share() -> dict[str, int]:
    """Which process this is, of how many, as `data.batches.Batches` takes it."""
    return dict(process_index=jax.process_index(), process_count=jax.process_count())


def is_first() -> bool:
    """Whether this process writes files and the terminal for the whole run."""
    return jax.process_index() == 0
