"""The commands of `interestream`, one a file. They import what is heavy inside."""
