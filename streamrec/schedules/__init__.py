"""What is remembered of the clicks and what one update step trains on; one file each, any model takes any of them."""
