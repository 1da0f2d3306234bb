"""Records and paper tables in, pages out. No torch, no clock, no host name: the same inputs give the same bytes."""
