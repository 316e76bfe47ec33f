"""What holds however pods and servers are mistreated, and however long it takes: these may run beside others."""
