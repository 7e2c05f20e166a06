"""Ways into other libraries, one file each; nothing else of edgeprune imports them."""
