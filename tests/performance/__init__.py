"""Speed, as ratios beside peers and bare engines; `make bench` runs it."""
