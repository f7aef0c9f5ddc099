"""Small tasks that an instruction can ask for, made up without end, cluster by cluster.

Those of CLUSTERS are learned, the first of them first; those of other clusters never
are. Letters are few and inputs short, so that small models can learn them all.
"""
