"""Commands about a network or run of one's own, one file each: `main(words)` reads options, computes, prints."""
