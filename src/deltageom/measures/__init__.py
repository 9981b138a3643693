"""One file per measure: from adapters, models or hidden states to numbers about one run or one pair of runs."""
