"""What a worker process sets up once before its first step."""

__all__ = ["configure_process"]


def configure_process(num_threads: int) -> None:
    """Set the number of torch's threads, tune malloc, and leave TF32 off.

    Oversubscribed cores cost a factor of 2 to 4. cuDNN rounds convolutions to TF32's 10 bits unless told not
    to; distances on a GPU shall be those of a CPU.
    """
    import torch

    from viewgen.memory import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(max(1, num_threads))
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
