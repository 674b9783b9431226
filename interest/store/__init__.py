"""The tables of interests, answers and usage, and the SQL that two databases share."""
