"""Networks: encoder, inverter, generators, their files and their execution."""
