"""Ray as a cluster: nodes, connections and an inventory."""
