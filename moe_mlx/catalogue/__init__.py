"""The models there are: on this machine and known by their published shapes; what fits of them, how to get one."""
