"""What `benchmarks/peers.py` runs side by side: ours, published loops written out obviously, and other packages, one file each."""
