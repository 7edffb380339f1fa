"""Networks: encoder, inverter, generators, their files, and how they are run."""
